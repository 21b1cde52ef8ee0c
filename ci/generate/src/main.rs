//! Kafka's message definitions → our fact files → Rust.
//!
//! ```text
//!   kafka-clients-X.jar ──(generate facts JAR)──► src/wire/schema/*.facts ──(generate rust)──► src/wire/{messages/*,api_key}.rs
//! ```
//! Both outputs are committed. `ci/golden/run` repeats both steps and fails when anything differs (`generate check JAR`).
//! Run from the repository's root.

mod facts;
mod model;
mod names;
mod rust;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What any step can fail with: a sentence.
type Result<T> = std::result::Result<T, String>;

const SCHEMA: &str = "src/wire/schema";
const WIRE: &str = "src/wire";
const USAGE: &str = "usage: generate facts JAR | generate rust | generate check [JAR]   (in the repository's root)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["facts", jar] => write_facts(Path::new(jar), Path::new(SCHEMA)),
        ["rust"] => write_rust(Path::new(SCHEMA), Path::new(WIRE)),
        ["check"] => check(None),
        ["check", jar] => check(Some(Path::new(jar))),
        _ => Err(USAGE.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("generate: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Writes one fact file per API, header and data schema, and removes those that are no longer there.
fn write_facts(jar: &Path, schema: &Path) -> Result<()> {
    let messages = source::read_jar(jar)?;
    let mut files: BTreeMap<String, Vec<model::Message>> = BTreeMap::new();
    for message in messages {
        files.entry(names::file(&message)).or_default().push(message);
    }
    create_dir(schema)?;
    let mut wanted = Vec::new();
    for (name, messages) in &files {
        let path = schema.join(format!("{name}.facts"));
        write(&path, &facts::print(messages))?;
        wanted.push(path);
    }
    remove_others(schema, "facts", &wanted)?;
    println!("{} fact files, {} messages", files.len(), files.values().map(Vec::len).sum::<usize>());
    Ok(())
}

/// Writes the Rust files from the fact files, formatted, and removes those that are no longer there.
fn write_rust(schema: &Path, wire: &Path) -> Result<()> {
    let files = read_facts(schema)?;
    let dir = wire.join("messages");
    create_dir(&dir)?;
    let mut wanted = Vec::new();
    for (name, text) in rust::print(&files)? {
        let path = if name == "api_key" { wire.join("api_key.rs") } else { dir.join(format!("{name}.rs")) };
        write(&path, &text)?;
        wanted.push(path);
    }
    format(&wanted)?;
    remove_others(&dir, "rs", &wanted)?;
    println!("{} Rust files", wanted.len());
    Ok(())
}

/// Repeats the steps into a directory of its own and compares.
fn check(jar: Option<&Path>) -> Result<()> {
    let fresh = Path::new("target/generate");
    if fresh.exists() {
        std::fs::remove_dir_all(fresh).map_err(|e| e.to_string())?;
    }
    create_dir(fresh)?;
    let mut schema = PathBuf::from(SCHEMA);
    if let Some(jar) = jar {
        schema = fresh.join("schema");
        write_facts(jar, &schema)?;
        compare(&schema, Path::new(SCHEMA), "facts")?;
    }
    write_rust(&schema, fresh)?;
    compare(&fresh.join("messages"), &Path::new(WIRE).join("messages"), "rs")?;
    if read(&fresh.join("api_key.rs"))? != read(&Path::new(WIRE).join("api_key.rs"))? {
        return Err("api_key.rs differs: run `generate rust`".to_string());
    }
    println!("facts and Rust are what the definitions say");
    Ok(())
}

fn compare(fresh: &Path, committed: &Path, extension: &str) -> Result<()> {
    let (fresh_files, committed_files) = (list(fresh, extension)?, list(committed, extension)?);
    if names_of(&fresh_files) != names_of(&committed_files) {
        return Err(format!("{} and {} do not hold the same files", fresh.display(), committed.display()));
    }
    for (a, b) in fresh_files.iter().zip(&committed_files) {
        if read(a)? != read(b)? {
            return Err(format!("{} differs from what the definitions say ({})", b.display(), a.display()));
        }
    }
    Ok(())
}

fn names_of(paths: &[PathBuf]) -> Vec<Option<&std::ffi::OsStr>> {
    paths.iter().map(|path| path.file_name()).collect()
}

fn read_facts(schema: &Path) -> Result<Vec<(String, Vec<model::Message>)>> {
    let mut files = Vec::new();
    for path in list(schema, "facts")? {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_string();
        let messages = facts::parse(&read(&path)?).map_err(|why| format!("{}: {why}", path.display()))?;
        files.push((name, messages));
    }
    Ok(files)
}

fn format(paths: &[PathBuf]) -> Result<()> {
    let status = std::process::Command::new("rustfmt")
        .args(["--edition", "2024", "--config", "max_width=120,use_small_heuristics=Max"])
        .args(paths)
        .status()
        .map_err(|e| format!("rustfmt: {e}"))?;
    if status.success() { Ok(()) } else { Err("rustfmt failed".to_string()) }
}

fn list(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    Ok(paths)
}

fn remove_others(dir: &Path, extension: &str, wanted: &[PathBuf]) -> Result<()> {
    for path in list(dir, extension)? {
        if !wanted.contains(&path) {
            std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(())
}

fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
