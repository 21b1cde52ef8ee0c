//! Reading Rust sources just well enough for rules about them: comments and literals can be blanked out, and what is
//! compiled only for tests can be told apart. Used by `house.rs` and `parity.rs`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A file of the repository: path relative to its root with `/`, and text.
pub struct Source {
    /// Path relative to the repository's root.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` (relative to the root) that `wanted` picks by path; build output and caches left out.
pub fn sources(folder: &str, wanted: impl Fn(&str) -> bool) -> Vec<Source> {
    let mut found = Vec::new();
    let start = if folder.is_empty() { root() } else { root().join(folder) };
    walk(&start, &wanted, &mut found).unwrap_or_else(|error| panic!("reading {}: {error}", start.display()));
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(folder: &Path, wanted: &impl Fn(&str) -> bool, found: &mut Vec<Source>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !["target", ".git", ".cache", "node_modules"].contains(&name.as_str()) {
                walk(&path, wanted, found)?;
            }
            continue;
        }
        let relative = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        // Binary files hold no rules' subject.
        if wanted(&relative)
            && let Ok(text) = fs::read_to_string(&path)
        {
            found.push(Source { path: relative, text });
        }
    }
    Ok(())
}

/// The same text with comments, string and character literals replaced by blanks; line breaks and offsets stay.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to.min(bytes.len())] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment_end(bytes, at)
        } else if !word_before && (rest.starts_with(b"r\"") || rest.starts_with(b"r#")) {
            raw_string_end(bytes, at + 1).unwrap_or(at)
        } else if !word_before && (rest.starts_with(b"br\"") || rest.starts_with(b"br#")) {
            raw_string_end(bytes, at + 2).unwrap_or(at)
        } else if rest[0] == b'"' {
            quoted_end(bytes, at, b'"')
        } else if rest[0] == b'\'' {
            character_end(bytes, at)
        } else {
            at
        };
        if end > at {
            blank(&mut out, at, end);
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).expect("whole literals were replaced by ASCII blanks")
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// `hashes` stands at the first `#` or the quote of a raw string.
fn raw_string_end(bytes: &[u8], hashes: usize) -> Option<usize> {
    let count = bytes[hashes..].iter().take_while(|&&byte| byte == b'#').count();
    if bytes.get(hashes + count) != Some(&b'"') {
        return None; // a raw identifier, r#type
    }
    let close = [b"\"".as_slice(), &b"#".repeat(count)].concat();
    let mut at = hashes + count + 1;
    while at < bytes.len() && !bytes[at..].starts_with(&close) {
        at += 1;
    }
    Some((at + close.len()).min(bytes.len()))
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of a character literal, or `start` when the quote begins a lifetime.
fn character_end(bytes: &[u8], start: usize) -> usize {
    match bytes.get(start + 1) {
        Some(b'\\') => quoted_end(bytes, start, b'\''),
        Some(&first) => {
            let width = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if bytes.get(start + 1 + width) == Some(&b'\'') { start + 2 + width } else { start }
        }
        None => start,
    }
}

/// Blanks every item that stands under a `#[cfg(..)]` naming `test` (but not `not(test)`). Takes `code_only` text.
pub fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (start, end, _) in test_items(code) {
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(out).expect("whole items were replaced by ASCII blanks")
}

/// Files that only tests compile: for `#[cfg(test)] mod name;` the name, for one with `#[path = "file.rs"]` the file.
pub fn test_modules(text: &str) -> Vec<String> {
    test_items(&code_only(text))
        .into_iter()
        .filter_map(|(start, end, module)| {
            let module = module?;
            let given = text[start..end].split_once("#[path = \"").and_then(|(_, rest)| rest.split_once('"'));
            Some(given.map_or(module, |(file, _)| file.to_owned()))
        })
        .collect()
}

/// (start of the attribute, end of the item, name if it is `mod name;`).
fn test_items(code: &str) -> Vec<(usize, usize, Option<String>)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = code[from..].find("#[cfg(") {
        let start = from + offset;
        let Some(close) = matching(code, start + 1, '[', ']') else { break };
        from = close;
        let condition = &code[start..close];
        let names_test =
            words(condition).any(|word| word == "test") && !condition.replace(' ', "").contains("not(test)");
        if !names_test {
            continue;
        }
        // The item ends at its first `;` or with its first braces, whichever comes first outside brackets.
        let mut at = close;
        let mut depth = 0;
        let bytes = code.as_bytes();
        while at < bytes.len() {
            match bytes[at] {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                b';' | b',' if depth == 0 => break,
                b'{' if depth == 0 => {
                    at = matching(code, at, '{', '}').unwrap_or(code.len()) - 1;
                    break;
                }
                _ => {}
            }
            at += 1;
        }
        let end = (at + 1).min(code.len());
        let module = code[close..end]
            .trim_end()
            .strip_suffix(';')
            .and_then(|item| item.rsplit_once("mod ").map(|(_, name)| name.trim().to_owned()))
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        found.push((start, end, module));
        from = end;
    }
    found
}

/// Where the bracket that opens at or after `start` closes (one past it).
fn matching(code: &str, start: usize, open: char, close: char) -> Option<usize> {
    let mut depth = 0;
    for (offset, character) in code[start..].char_indices() {
        if character == open {
            depth += 1;
        } else if character == close {
            depth -= 1;
            if depth == 0 {
                return Some(start + offset + 1);
            }
        }
    }
    None
}

/// The identifiers of a text.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !(character.is_alphanumeric() || character == '_')).filter(|word| !word.is_empty())
}

/// The line (from 1) of a byte offset.
pub fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}
