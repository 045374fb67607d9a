//! Disks that are full or can't be read, real ones as far as the kernel makes
//! them: a small file system, and a loop device whose file has ended.

use std::fs::{self, File};

use crate::lab::{Lab, image, run};
use crate::rights::{Loop, SmallDisk, has_own_mounts};

#[test]
fn a_full_vault_is_told_and_goes_on_when_there_is_space() {
    if !has_own_mounts("disks::a_full_vault_is_told_and_goes_on_when_there_is_space") {
        return;
    }
    let lab = Lab::empty();
    let place = lab.path("vault");
    fs::create_dir(&place).unwrap();
    let disk = SmallDisk::mount(&place, 16 << 10);
    lab.run(["init"]).expect(0);
    lab.image("vm.img", &image(1));
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);

    let ballast = disk.fill();
    lab.image("now.img", &image(2));
    let full = lab.run(["protect", "vm", "--image", "now.img"]).expect(10);
    full.says(&["no space is left"]);
    let mut told = lab.command(["--json", "expire", "--all", "--keep-last", "1"]);
    let told = run(told.args(["--min-age", "0s"]));
    assert_eq!(told.expect(10).json()["error"]["kind"], "no-space");

    fs::remove_file(ballast).unwrap();
    let points = lab.json(["points", "vm"]);
    assert_eq!(points.as_array().unwrap().len(), 1, "{points}");
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == image(1));
    lab.run(["protect", "vm", "--image", "now.img"]).expect(0);
    lab.run(["restore", "vm@latest", "--to", "now.back"])
        .expect(0);
    assert!(lab.read("now.back") == image(2));
}

#[test]
fn blocks_that_cannot_be_read_are_recorded_and_the_rest_is_protected() {
    let lab = Lab::with_vault();
    let content = &image(1)[..8 << 20];
    fs::write(lab.path("disk"), content).unwrap();
    File::open(lab.path("disk")).unwrap().sync_all().unwrap();
    let Some(disk) = Loop::over(&lab.path("disk")) else {
        return;
    };
    // The kernel answers EIO where a loop device's file has ended.
    let readable: u64 = (7 << 20) + (1 << 19);
    let file = File::options().write(true).open(lab.path("disk"));
    file.unwrap().set_len(readable).unwrap();

    let mut protect = lab.command(["--json", "protect", "vm", "--image", &disk.path]);
    let protected = run(&mut protect).expect(15);
    let point = protected.json();
    assert_eq!(point["bytes_unreadable"], (8 << 20) - readable);
    let ranges = point["unreadable"].as_array().unwrap();
    let first = ranges.iter().map(|range| range["offset"].as_u64());
    assert_eq!(first.min(), Some(Some(readable)), "{point}");
    let protected = protected.says(&["source vm can't be read at"]);
    protected.says(&["recorded as unreadable", "the rest is protected"]);
    lab.run(["check", "vm", "--image", &disk.path]).expect(15);

    let mut restore = lab.command(["--json", "restore", "vm@latest", "--to", "back.img"]);
    let restored = run(&mut restore).expect(9);
    let report = restored.json();
    assert_eq!(report["missing"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["missing"][0]["offset"], readable);
    restored.restored(content, &lab.read("back.img"));
}
