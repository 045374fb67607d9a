//! Servers that tests talk to: started on a free port of the loopback interface,
//! and ended by their own process ids.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test program uses some of it; a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::is_left_out;

/// A server; ended when dropped.
pub(crate) struct Peer {
    child: Child,
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program of a peer; none if it was left out on purpose.
pub(crate) fn program(variable: &str, peer: &str) -> Option<String> {
    if is_left_out(peer) {
        return None;
    }
    let program = std::env::var(variable);
    Some(program.unwrap_or_else(|_| {
        panic!(
            "{variable} does not say where {peer} is: run `cargo xtask test`, \
             or leave it out with BACKSTOP_WITHOUT={peer}"
        )
    }))
}

/// Starts a server and waits until it says where it listens.
pub(crate) fn start(command: &mut Command) -> Peer {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (say, hear) = std::sync::mpsc::channel();
    let said = Arc::<Mutex<Vec<String>>>::default();
    let outputs: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().unwrap()),
        Box::new(child.stderr.take().unwrap()),
    ];
    for output in outputs {
        let (say, kept) = (say.clone(), Arc::clone(&said));
        // Reads on to the end, so that the server never waits for us.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = say.send(line.clone());
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
    }
    drop(say);
    for line in hear {
        if let Some((_, rest)) = line.split_once("http://127.0.0.1:") {
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let address = format!("127.0.0.1:{port}");
            return Peer {
                child,
                address,
                said,
            };
        }
    }
    let status = child.wait();
    let said = said.lock().unwrap();
    panic!("the server ended with {status:?}: {}", said.join("\n"));
}

/// Sends a request; gives all of the answer.
pub(crate) fn send(address: &str, request: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends a request without a body; gives the first line of the answer.
pub(crate) fn put(address: &str, path: &str, headers: &str) -> String {
    let answer = send(address, &format!("PUT {path}"), headers, "");
    answer.lines().next().unwrap_or_default().to_owned()
}

impl Peer {
    /// What it has said so far, line by line.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The S3 emulator moto with the bucket `backstop`; none if it was left out.
pub(crate) fn s3() -> Option<Peer> {
    let program = program("BACKSTOP_PEER_MOTO", "s3")?;
    let mut command = Command::new(program);
    let peer = start(command.args(["-H", "127.0.0.1", "-p", "0"]));
    let made = put(&peer.address, "/backstop", "");
    assert!(made.contains(" 200 "), "{made}");
    Some(peer)
}
