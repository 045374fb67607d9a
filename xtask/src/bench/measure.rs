//! Runs one command and says what it took: wall time, processor time, peak memory, from the kernel's own accounts.

use crate::command::spoken;
use crate::problem::{Context, Outcome};
use crate::stopwatch::Stopwatch;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// What one run of a command took, with all processes it started and waited for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From start to exit, in seconds
    pub wall_s: f64,
    /// Processor time in the program itself, in seconds
    pub user_s: f64,
    /// Processor time in the kernel for it, in seconds
    pub system_s: f64,
    /// The largest resident size of any of its processes, in MiB
    pub peak_mib: f64,
}

impl Cost {
    /// Processor time in all.
    pub fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }
}

/// Runs the command to its end; hands back its cost and what it wrote to its standard output.
pub fn measure(command: &mut Command, scratch: &Path) -> Outcome<(Cost, String)> {
    let (out, err) = (scratch.join("stdout.log"), scratch.join("stderr.log"));
    command
        .stdin(Stdio::null())
        .stdout(File::create(&out).context(out.display())?)
        .stderr(File::create(&err).context(err.display())?);
    let stopwatch = Stopwatch::start();
    let child = command.spawn().context(spoken(command))?;
    let process = libc::pid_t::try_from(child.id()).context("process id")?;
    let (status, usage) = wait(process)?;
    let wall_s = stopwatch.read().as_secs_f64();
    let said = std::fs::read_to_string(&out).context(out.display())?;
    if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
        let complaint = std::fs::read_to_string(&err).unwrap_or_default();
        let lines: Vec<&str> = complaint.trim().lines().collect();
        return Err(format!(
            "`{}` failed (wait status {status}): {}",
            spoken(command),
            lines[lines.len().saturating_sub(8)..].join("\n")
        ));
    }
    let cost = Cost {
        wall_s,
        user_s: seconds(usage.ru_utime),
        system_s: seconds(usage.ru_stime),
        peak_mib: usage.ru_maxrss as f64 / 1024.0,
    };
    Ok((cost, said))
}

/// Waits for the process and takes its accounts; the standard library's own wait does not give them.
fn wait(process: libc::pid_t) -> Outcome<(libc::c_int, libc::rusage)> {
    let mut status = 0;
    loop {
        // SAFETY: a rusage of zeros is a valid one, both pointers are to live values of the types that wait4 fills,
        // and the process is a child of ours that nobody else waits for.
        let (done, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (
                libc::wait4(process, &raw mut status, 0, &raw mut usage),
                usage,
            )
        };
        if done == process {
            return Ok((status, usage));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(format!("can't wait for process {process}: {error}"));
        }
    }
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_taken_and_failures_told() {
        let folder = std::env::temp_dir().join(format!("xtask-measure-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut sleep = Command::new("sh");
        sleep.args(["-c", "sleep 0.1; echo done"]);
        let (cost, said) = measure(&mut sleep, &folder).unwrap();
        assert_eq!(said, "done\n");
        assert!(cost.wall_s >= 0.1 && cost.wall_s < 10.0);
        assert!(cost.peak_mib > 0.1);
        assert!(cost.cpu_s() < 5.0);
        let mut fail = Command::new("sh");
        fail.args(["-c", "echo why >&2; exit 4"]);
        assert!(measure(&mut fail, &folder).unwrap_err().contains("why"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
