//! What a traced process did to files, as `strace` saw it.

use std::collections::HashMap;

/// A system call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Create {
        path: String,
        truncate: bool,
    },
    Write {
        path: String,
        at: Option<u64>,
        data: Vec<u8>,
    },
    Truncate {
        path: String,
        length: u64,
    },
    /// The beginning of a sync: what was written before is caught by it.
    SyncBegins {
        path: String,
        by: u32,
    },
    SyncEnds {
        path: String,
        by: u32,
    },
    Rename {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    MakeFolder {
        path: String,
    },
    /// The process said something on its standard output.
    Said {
        line: String,
    },
}

/// The options of `strace` that this reads.
pub(crate) const OPTIONS: [&str; 8] = [
    "-f",
    "-y",
    "-xx",
    "-s",
    "8000000",
    "-e",
    "trace=open,openat,creat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,ftruncate,unlink,unlinkat,link,linkat,mkdir,mkdirat",
    "-o",
];

/// The strings of a line in hexadecimal escapes, in order.
fn strings(text: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for (number, part) in text.split('"').enumerate() {
        if number % 2 == 1 {
            let bytes = part.split("\\x").skip(1);
            let bytes = bytes.map(|hex| u8::from_str_radix(hex, 16).unwrap());
            found.push(bytes.collect());
        }
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The path that `-y` shows behind a descriptor: `5<path>`, escaped.
fn descriptor(arguments: &str) -> Option<String> {
    let (_, rest) = arguments.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    if !path.contains("\\x") {
        return Some(path.to_owned());
    }
    let bytes = path.split("\\x").skip(1);
    let bytes: Vec<u8> = bytes
        .map(|hex| u8::from_str_radix(hex, 16).unwrap())
        .collect();
    Some(text(&bytes))
}

/// Reads a trace. Calls stand where they ended, which is when their effect is
/// sure; a sync also where it began.
pub(crate) fn read(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut begun: HashMap<u32, String> = HashMap::new();
    for line in trace.lines() {
        let Some((process, rest)) = line.split_once(' ') else {
            continue;
        };
        let Ok(process) = process.parse::<u32>() else {
            continue;
        };
        let rest = rest.trim_start();
        let whole = if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            note_sync(start, process, &mut calls);
            begun.insert(process, start.trim_end().to_owned());
            continue;
        } else if rest.starts_with("<... ") {
            let Some((_, end)) = rest.split_once("resumed>") else {
                continue;
            };
            let Some(start) = begun.remove(&process) else {
                continue;
            };
            format!("{start}{end}")
        } else {
            note_sync(rest, process, &mut calls);
            rest.to_owned()
        };
        calls.extend(ended(&whole, process));
    }
    calls
}

fn note_sync(start: &str, by: u32, calls: &mut Vec<Call>) {
    if (start.starts_with("fsync(") || start.starts_with("fdatasync("))
        && let Some(path) = descriptor(start)
    {
        calls.push(Call::SyncBegins { path, by });
    }
}

fn ended(whole: &str, by: u32) -> Option<Call> {
    let (name, arguments) = whole.split_once('(')?;
    // Short calls are padded in front of their result.
    let (arguments, result) = arguments.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    if result.starts_with('-') {
        return None;
    }
    let mut named = strings(arguments).into_iter();
    let mut path = || named.next().map(|bytes| text(&bytes));
    match name {
        "open" | "openat" | "creat" => {
            let path = path()?;
            let flags = arguments.rsplit('"').next().unwrap_or_default();
            flags.contains("O_CREAT").then(|| Call::Create {
                path,
                truncate: flags.contains("O_TRUNC"),
            })
        }
        "write" if arguments.starts_with("1<") || arguments.starts_with("1,") => {
            Some(Call::Said { line: path()? })
        }
        "write" | "pwrite64" => {
            let path = descriptor(arguments)?;
            let mut data = strings(arguments).into_iter().next()?;
            let count: usize = result.split(' ').next()?.parse().ok()?;
            data.truncate(count);
            let at = if name == "pwrite64" {
                arguments.rsplit(", ").next()?.trim().parse().ok()
            } else {
                None
            };
            Some(Call::Write { path, at, data })
        }
        "fsync" | "fdatasync" => Some(Call::SyncEnds {
            path: descriptor(arguments)?,
            by,
        }),
        "ftruncate" => Some(Call::Truncate {
            path: descriptor(arguments)?,
            length: arguments.rsplit(", ").next()?.trim().parse().ok()?,
        }),
        "rename" | "renameat" | "renameat2" => Some(Call::Rename {
            from: path()?,
            to: path()?,
        }),
        "link" | "linkat" => Some(Call::Link {
            from: path()?,
            to: path()?,
        }),
        "unlink" | "unlinkat" => Some(Call::Unlink { path: path()? }),
        "mkdir" | "mkdirat" => Some(Call::MakeFolder { path: path()? }),
        _ => None,
    }
}

#[test]
fn a_trace_is_read() {
    let trace = concat!(
        "12 openat(AT_FDCWD</tmp>, \"\\x2f\\x61\", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 5</a>\n",
        "12 write(5</a>, \"\\x68\\x69\", 2 <unfinished ...>\n",
        "13 fsync(6</b> <unfinished ...>\n",
        "12 <... write resumed>) = 2\n",
        "13 <... fsync resumed>)            = 0\n",
        "12 pwrite64(5</a>, \"\\x68\", 1, 4096) = 1\n",
        "12 unlink(\"\\x2f\\x62\") = -1 ENOENT (No such file or directory)\n",
    );
    let path = || "/a".to_owned();
    let other = || "/b".to_owned();
    let expected = [
        Call::Create {
            path: path(),
            truncate: true,
        },
        Call::SyncBegins {
            path: other(),
            by: 13,
        },
        Call::Write {
            path: path(),
            at: None,
            data: b"hi".to_vec(),
        },
        Call::SyncEnds {
            path: other(),
            by: 13,
        },
        Call::Write {
            path: path(),
            at: Some(4096),
            data: b"h".to_vec(),
        },
    ];
    assert_eq!(read(trace), expected);
}
