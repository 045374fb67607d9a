//! A provider of keys that runs a program, such as a script around a key
//! management service's own client, `age`, `gpg` or a hardware token's tool.
//!
//! The program is called with `wrap` or `unwrap` as its last argument. It reads
//! what to wrap or unwrap from its standard input, writes what comes of it to
//! its standard output, and what a human should know to its standard error. It
//! ends with 0, with 5 if it is sure that the key is not its own, and with
//! anything else if repeating it later may help.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use backstop::{Error, ErrorKind, KeyProvider, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

/// The code of a program that has no such key.
const NOT_MINE: i32 = 5;

/// How long a program may take: somebody may have to touch a token.
const PATIENCE: Duration = Duration::from_mins(2);

/// More than this is neither a key nor a wrapped one, in bytes.
const LONGEST: usize = 16 << 10;

/// How much of what a program says is told on, in bytes.
const SAID: u64 = 1 << 10;

/// Keys that a program wraps and unwraps.
#[derive(Debug)]
pub struct CommandKeys {
    program: String,
    arguments: Vec<String>,
}

impl CommandKeys {
    /// A program and its arguments, parted by spaces.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if there is none.
    pub fn new(command: &str) -> Result<Self> {
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = words
            .next()
            .ok_or_else(|| Error::invalid_input("the key command is empty"))?;
        Ok(Self {
            program,
            arguments: words.collect(),
        })
    }

    /// Runs the program.
    async fn run(&self, what: &str, input: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let failed = |why: &str| Error::unavailable(format!("key command {} {why}", self.program));
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .arg(what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let sentence = format!("key command {} can't be started", self.program);
                Error::invalid_input(sentence).with_source(error)
            })?;
        let talked = tokio::time::timeout(PATIENCE, talk(&mut child, input)).await;
        let talked = talked.map_err(|_| failed("has not ended in 2 minutes"))?;
        let (output, said, status) =
            talked.map_err(|error| failed("can't be talked to").with_source(error))?;
        if status.success() && output.len() <= LONGEST {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&said);
        let sentence = match status.code() {
            _ if status.success() => format!("key command {} says too much", self.program),
            Some(NOT_MINE) => format!("key command {} has no such key: {said}", self.program),
            _ => format!("key command {} failed ({status}): {said}", self.program),
        };
        let kind = match status.code() {
            Some(NOT_MINE) => ErrorKind::WrongKey,
            _ => ErrorKind::Unavailable,
        };
        Err(Error::new(kind, sentence.trim_end()))
    }
}

/// Gives a program its input, and takes what it writes.
async fn talk(
    child: &mut Child,
    input: &[u8],
) -> std::io::Result<(Zeroizing<Vec<u8>>, Vec<u8>, ExitStatus)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let give = async {
        if let Some(mut stdin) = stdin {
            // One that needs no input may have ended.
            let _ = stdin.write_all(input).await;
        }
    };
    let take = async {
        // Room for all of it: growing would leave copies behind.
        let mut output = Zeroizing::new(Vec::with_capacity(2 * LONGEST));
        if let Some(stdout) = stdout {
            let mut stdout = stdout.take(LONGEST as u64 + 1);
            stdout.read_to_end(&mut output).await?;
        }
        std::io::Result::Ok(output)
    };
    let hear = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(SAID).read_to_end(&mut said).await?;
        }
        std::io::Result::Ok(said)
    };
    let ((), output, said) = tokio::join!(give, take, hear);
    Ok((output?, said?, child.wait().await?))
}

#[async_trait]
impl KeyProvider for CommandKeys {
    fn name(&self) -> &'static str {
        "command"
    }

    fn key_reference(&self) -> &str {
        &self.program
    }

    async fn wrap(&self, plain: &[u8; 32]) -> Result<Vec<u8>> {
        Ok(self.run("wrap", plain).await?.to_vec())
    }

    async fn unwrap(&self, _: &str, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
        let plain = self.run("unwrap", wrapped).await?;
        let mut key = Zeroizing::new([0; 32]);
        if plain.len() != key.len() {
            return Err(Error::unavailable(format!(
                "key command {} gave {} bytes instead of 32",
                self.program,
                plain.len()
            )));
        }
        key.copy_from_slice(&plain);
        Ok(key)
    }
}
