//! What of the sample command line can't be brought about from outside: a
//! defect, and a vault that takes long to close.
#![allow(dead_code, reason = "the program uses the rest of its modules")]

#[path = "../../examples/backstop/defect.rs"]
mod defect;
#[path = "../../examples/backstop/ending.rs"]
mod ending;
#[path = "../../examples/backstop/interrupt.rs"]
mod interrupt;

use std::process::{Command, Stdio};
use std::time::Duration;

use backstop::ErrorKind;

const CHILD: &str = "BACKSTOP_TEST_DEFECT";

/// In a process of its own, since how panics are told is the process's.
#[test]
fn a_panic_is_a_defect_with_a_sentence_and_an_exit_code() {
    if std::env::var_os(CHILD).is_some() {
        defect::tell_panics();
        let ended = defect::contained(|| panic!("two and two\nare five"));
        let error = ended.map(|()| "it went on").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("a defect of this program"));
        std::process::exit(ending::exit_code(error.kind()).into());
    }
    let name = "inside::a_panic_is_a_defect_with_a_sentence_and_an_exit_code";
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(70), "{said}");
    let line = said
        .lines()
        .find(|line| line.starts_with("backstop: panicked at "));
    let line = line.unwrap_or_else(|| panic!("no sentence in {said}"));
    assert!(
        line.contains("inside.rs:") && line.contains("two and two are five"),
        "{line}"
    );
}

#[tokio::test]
async fn closing_is_waited_for_unless_an_interrupt_came_before() {
    let slow = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    assert_eq!(interrupt::patience(false), None);
    interrupt::close(slow, None).await.unwrap();

    assert!(interrupt::patience(true).is_some_and(|patience| patience <= Duration::from_secs(10)));
    let stuck = std::future::pending();
    let error = interrupt::close(stuck, Some(Duration::ZERO))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
