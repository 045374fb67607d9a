//! Picks whole files to fill an image with: in name order, up to a number of bytes, hard-linked rather than copied.

use crate::problem::{Context, Outcome};
use std::fs;
use std::path::{Path, PathBuf};

/// Fills `into` with files found below the folders `from`, in their order, until `limit` bytes are there; says how
/// many bytes that became.
pub fn pick(from: &[PathBuf], into: &Path, limit: u64) -> Outcome<u64> {
    let mut picker = Picker { limit, total: 0 };
    for (number, folder) in from.iter().enumerate() {
        let folder = folder.canonicalize().context(folder.display())?;
        let into = if number == 0 {
            into.to_path_buf()
        } else {
            into.join(format!("more-{number}"))
        };
        picker.walk(&folder, &into)?;
    }
    if picker.total == 0 {
        return Err("there are no files to fill an image with".to_owned());
    }
    Ok(picker.total)
}

struct Picker {
    limit: u64,
    total: u64,
}

impl Picker {
    /// Enough is 98 % of the limit: the last bytes are not worth a walk through all small files.
    fn is_full(&self) -> bool {
        self.total > self.limit / 100 * 98
    }

    fn walk(&mut self, from: &Path, into: &Path) -> Outcome<()> {
        let mut files = Vec::new();
        let mut folders = Vec::new();
        // What can't be read or vanishes while we walk is left out: any real files will do.
        for entry in fs::read_dir(from).into_iter().flatten().flatten() {
            let Ok(facts) = entry.metadata() else {
                continue;
            };
            if facts.is_dir() {
                folders.push(entry.file_name());
            } else if facts.is_file() {
                files.push((entry.file_name(), facts.len()));
            }
        }
        files.sort();
        folders.sort();
        let mut made = false;
        for (name, length) in files {
            if self.total + length > self.limit {
                continue;
            }
            if !made {
                fs::create_dir_all(into).context(into.display())?;
                made = true;
            }
            let (source, target) = (from.join(&name), into.join(&name));
            let linked = fs::hard_link(&source, &target).is_ok();
            if linked || fs::copy(&source, &target).is_ok() {
                self.total += length;
            }
        }
        for name in folders {
            if self.is_full() {
                break;
            }
            self.walk(&from.join(&name), &into.join(&name))?;
        }
        Ok(())
    }
}
