//! `docs/protocol.md` says what `wire::ApiKey` says. `OTTLA_WRITE_DOCS=1 cargo test --test protocol_doc` writes it anew.

use std::{env, fmt::Write, fs, path::Path};

use ottla::wire::ApiKey;

const BEGIN: &str = "<!-- generated from wire::ApiKey: begin -->\n";
const END: &str = "<!-- generated from wire::ApiKey: end -->\n";

fn table() -> String {
    let mut out = String::from("| key | API | versions | flexible from |\n|---|---|---|---|\n");
    for api in ApiKey::all() {
        let range = api.versions();
        let flexible = (range.min..=range.max).find(|version| api.is_flexible(*version));
        let flexible = flexible.map_or_else(|| "never".to_owned(), |version| version.to_string());
        writeln!(out, "| {} | {} | {}-{} | {flexible} |", api as i16, api.name(), range.min, range.max)
            .expect("writing to a string cannot fail");
    }
    out
}

#[test]
fn protocol_document_lists_the_versions_we_speak() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let text = fs::read_to_string(&path).expect("docs/protocol.md can be read");
    let (before, rest) = text.split_once(BEGIN).expect("docs/protocol.md has the line where the table begins");
    let (found, after) = rest.split_once(END).expect("docs/protocol.md has the line where the table ends");
    let wanted = table();
    if env::var_os("OTTLA_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("docs/protocol.md can be written");
        return;
    }
    assert_eq!(found, wanted, "docs/protocol.md is not what wire::ApiKey says; OTTLA_WRITE_DOCS=1 rewrites it");
}
