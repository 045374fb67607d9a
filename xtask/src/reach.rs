//! What the code of a pure crate must not name: files, networks, processes, one operating system.
//!
//! Read as tokens, so that neither line breaks nor lists of imports hide a name.

use crate::tidy::code_lines;

/// Paths that lead out of the process, or to a backend.
const OUTSIDE: [&[&str]; 12] = [
    &["std", "fs"],
    &["std", "net"],
    &["std", "os"],
    &["std", "process"],
    &["std", "env"],
    &["tokio", "fs"],
    &["tokio", "net"],
    &["tokio", "process"],
    &["libc"],
    &["rustix"],
    &["object_store"],
    &["slatedb"],
];

/// Crates of which everything at once may not be imported: that hides the paths above.
const NOT_AS_A_WHOLE: [&str; 2] = ["std", "tokio"];

/// What a condition must not ask for: it makes the crate another one on each platform.
const PLATFORMS: [&str; 6] = [
    "unix",
    "windows",
    "target_os",
    "target_family",
    "target_env",
    "target_vendor",
];

/// Where a file reaches outside the process; comments and tests may name what they like.
pub fn reaches_out(path: &str, source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let word = tokens[at].text.as_str();
        if ["cfg", "cfg_attr"].contains(&word) {
            let asked = condition(&tokens[at..]);
            found.extend(asked.map(|token| (token.line, format!("asks for {}", token.text))));
            at += 1;
        } else if starts_path(&tokens, at) {
            let mut prefix = Vec::new();
            at = path_tree(&tokens, at, &mut prefix, &mut found);
        } else {
            at += 1;
        }
    }
    found.sort();
    found.dedup();
    let told = found.into_iter().map(|(line, what)| {
        format!("{path}:{line}: {what}: no files, no network, no one operating system here")
    });
    told.collect()
}

struct Token {
    text: String,
    line: usize,
}

impl Token {
    fn is_name(&self) -> bool {
        let first = self.text.chars().next();
        first.is_some_and(|first| first.is_alphabetic() || first == '_')
    }
}

/// Names, `::` and single marks; no comments and no literals.
fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut open = Open::Code;
    for (line, text) in code_lines(source) {
        let mut rest = text;
        while !rest.is_empty() {
            rest = match open {
                Open::Code => {
                    let (token, after) = next(rest, &mut open);
                    if let Some(text) = token {
                        found.push(Token { text, line });
                    }
                    after
                }
                Open::Text { raw, hashes } => match end_of_text(rest, raw, hashes) {
                    Some(after) => {
                        open = Open::Code;
                        after
                    }
                    None => "",
                },
                Open::Comment => match rest.split_once("*/") {
                    Some((_, after)) => {
                        open = Open::Code;
                        after
                    }
                    None => "",
                },
            };
        }
    }
    found
}

/// What goes on at the end of a line.
#[derive(Clone, Copy)]
enum Open {
    Code,
    Text { raw: bool, hashes: usize },
    Comment,
}

/// The next token of a line, if what comes is one, and what is left of the line.
fn next<'a>(rest: &'a str, open: &mut Open) -> (Option<String>, &'a str) {
    if rest.starts_with("//") {
        return (None, "");
    }
    if let Some(after) = rest.strip_prefix("/*") {
        *open = Open::Comment;
        return (None, after);
    }
    for lead in ["br", "r"] {
        let Some(after) = rest.strip_prefix(lead) else {
            continue;
        };
        let hashes = after.chars().take_while(|mark| *mark == '#').count();
        if let Some(after) = after[hashes..].strip_prefix('"') {
            *open = Open::Text { raw: true, hashes };
            return (None, after);
        }
    }
    if let Some(after) = rest.strip_prefix("::") {
        return (Some("::".to_owned()), after);
    }
    if let Some(after) = rest.strip_prefix('"') {
        let (raw, hashes) = (false, 0);
        *open = Open::Text { raw, hashes };
        return (None, after);
    }
    if let Some(after) = rest.strip_prefix('\'') {
        return (None, after_quote(after));
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
    if length > 0 {
        return (Some(rest[..length].to_owned()), &rest[length..]);
    }
    let mut marks = rest.chars();
    let mark = marks.next().filter(|mark| !mark.is_whitespace());
    (mark.map(String::from), marks.as_str())
}

/// What follows a character; all of it where the quote leads in a lifetime.
fn after_quote(after: &str) -> &str {
    if let Some(escaped) = after.strip_prefix('\\') {
        let mut rest = escaped.chars();
        rest.next();
        return rest.as_str().split_once('\'').map_or("", |(_, rest)| rest);
    }
    let mut marks = after.chars();
    marks.next();
    marks.as_str().strip_prefix('\'').unwrap_or(after)
}

fn end_of_text(rest: &str, raw: bool, hashes: usize) -> Option<&str> {
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return rest.split_once(&end).map(|(_, after)| after);
    }
    let mut marks = rest.chars();
    loop {
        match marks.next()? {
            '"' => return Some(marks.as_str()),
            '\\' => {
                marks.next();
            }
            _ => {}
        }
    }
}

/// The platforms that a condition asks for: what stands in the parentheses after `cfg` or `cfg!`.
fn condition(tokens: &[Token]) -> impl Iterator<Item = &Token> {
    let mut depth = 0_usize;
    let inside = tokens.iter().skip(1).take_while(move |token| {
        match token.text.as_str() {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            "!" => return true,
            _ => {}
        }
        depth > 0
    });
    inside.filter(|token| PLATFORMS.contains(&token.text.as_str()))
}

/// Whether a path from a crate begins here: `std::`, `::std::`, or `libc` after `use`; not the middle of one.
fn starts_path(tokens: &[Token], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| tokens[before].text.as_str());
    if !tokens[at].is_name() {
        return false;
    }
    let follows_a_name = at >= 2 && before == Some("::") && tokens[at - 2].is_name();
    let goes_on = tokens.get(at + 1).is_some_and(|next| next.text == "::");
    // `use` is a keyword; `libc` in `use libc;` leads nowhere else.
    !follows_a_name && (goes_on || before == Some("use"))
}

/// Follows a path and all its branches in braces; gives where it ends.
fn path_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    found: &mut Vec<(usize, String)>,
) -> usize {
    let depth = prefix.len();
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = if tokens[at].text == "," {
                        at + 1
                    } else {
                        path_tree(tokens, at, prefix, found)
                    };
                }
                at += 1;
                break;
            }
            "*" => {
                if prefix.len() == 1 && NOT_AS_A_WHOLE.contains(&prefix[0].as_str()) {
                    found.push((token.line, format!("takes all of {}", prefix[0])));
                }
                at += 1;
                break;
            }
            _ if token.is_name() => {
                prefix.push(token.text.clone());
                let names: Vec<&str> = prefix.iter().map(String::as_str).collect();
                if OUTSIDE.contains(&names.as_slice()) {
                    found.push((token.line, format!("says {}", names.join("::"))));
                }
                at += 1;
                if tokens.get(at).is_some_and(|next| next.text == "as") {
                    at += 2;
                    break;
                }
                if tokens.get(at).is_none_or(|next| next.text != "::") {
                    break;
                }
            }
            // `Vec::<u8>` and the like: not a path that leads out.
            _ => {
                at += 1;
                break;
            }
        }
    }
    prefix.truncate(depth);
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        let found = reaches_out("core.rs", source);
        let lines = found.iter().filter_map(|line| line.split(':').nth(1));
        lines.map(|line| line.parse().unwrap()).collect()
    }

    #[test]
    fn paths_that_lead_out_are_found() {
        let source = "//! Mentions std::fs, which is fine.\nuse std::fs::File;\nfn f() { std::net::lookup(); }\n\
                      use std::{collections::HashMap, os::fd::OwnedFd};\n\
                      fn g() { ::std::env::var(\"x\"); std\n    ::process::exit(1) }\n\
                      use libc;\nuse {tokio::net::TcpStream, slatedb::Db};\nuse std::*;\n\
                      #[cfg(test)]\nmod tests { use std::fs; }\n";
        assert_eq!(lines(source), [2, 3, 4, 5, 6, 7, 8, 8, 9]);
    }

    #[test]
    fn lists_of_imports_over_several_lines_are_followed() {
        let source = "//! X.\nuse std::{\n    collections::{BTreeMap, HashMap},\n    fs::File,\n    \
                      io::{self, Read},\n    net as network,\n};\nuse std::{io, {os}};\n";
        assert_eq!(lines(source), [4, 6, 8]);
    }

    #[test]
    fn conditions_for_one_platform_are_found() {
        let source = "//! X.\n#[cfg(unix)]\nmod a;\n#[cfg(any(\n    feature = \"x\",\n    unix,\n))]\nmod b;\n\
                      fn f() -> bool { cfg!(windows) }\n#[cfg(not(target_family = \"wasm\"))]\nmod c;\n\
                      #[cfg_attr(target_os = \"linux\", allow(unused))]\nmod d;\n";
        assert_eq!(lines(source), [2, 6, 9, 10, 12]);
    }

    #[test]
    fn what_stays_inside_is_let_be() {
        let source = "//! Fine.\nuse std::collections::{BTreeMap, hash_map};\nuse crate::fs::net;\n\
                      #[cfg(feature = \"unix\")]\nmod a;\nconst TEXT: &str = \"std::fs \\\" cfg(unix)\";\n\
                      fn f<'a>(os: &'a str, unix: char) -> bool { unix == '\"' || os == \"x\" }\n\
                      const RAW: &str = r#\"use std::fs; \"std::net\n std::os\"#; // std::env\n\
                      /* std::process\n std::net */ fn g() { Vec::<u8>::new(); my::std::fs::f(); }\n\
                      mod env { pub fn net() {} }\nfn h(process: u8, fs: u8) -> u8 { process * fs }\n";
        assert_eq!(reaches_out("core.rs", source), Vec::<String>::new());
    }
}
