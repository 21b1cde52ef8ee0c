//! `docs/parity.md` names every capability once, and every test it leans on exists. That those tests also ran is checked
//! after the runners, by `ci/parity-ran`.

#[path = "common/source.rs"]
#[allow(dead_code)]
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use source::{code_only, root, sources};

/// How many ids each document has.
const COUNTS: &[(&str, u32)] = &[("K", 129), ("L", 68), ("F", 17), ("R", 46), ("B", 95), ("M", 78)];

#[derive(Debug, PartialEq)]
enum State {
    Done(Vec<String>),
    Later,
    Refused(String),
}

/// The id as the table writes it: M ids have no hyphen.
fn id(family: &str, number: u32) -> String {
    if family == "M" { format!("M{number}") } else { format!("{family}-{number}") }
}

/// The rows of the table: id and state. A row that can't be read is an error with its line number.
fn rows(text: &str) -> Result<Vec<(String, State)>, String> {
    let mut out = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let first = cells[0];
        let looks_like_id = first.len() >= 2
            && first.starts_with(['K', 'L', 'F', 'R', 'B', 'M'])
            && first[1..].trim_start_matches('-').chars().all(|character| character.is_ascii_digit());
        if !line.starts_with('|') || !looks_like_id {
            continue;
        }
        let bad = |what: &str| Err(format!("line {}: {what}: {line}", index + 1));
        let [id, area, state] = cells[..] else { return bad("three columns expected") };
        if area.is_empty() {
            return bad("no words for the area");
        }
        let (word, rest) = state.split_once(' ').unwrap_or((state, ""));
        let state = match word {
            "later" if rest.is_empty() => State::Later,
            "refused" if rest.len() >= 20 => State::Refused(rest.to_owned()),
            "refused" => return bad("refused without a reason"),
            "done" if !rest.is_empty() => {
                State::Done(rest.replace([',', '`'], " ").split_whitespace().map(str::to_owned).collect())
            }
            "done" => return bad("done without a test"),
            _ => return bad("a state is `done <tests>`, `later` or `refused <reason>`"),
        };
        out.push((id.to_owned(), state));
    }
    Ok(out)
}

/// What is wrong with the set of ids.
fn id_problems(rows: &[(String, State)]) -> Vec<String> {
    let mut seen = BTreeMap::new();
    for (id, _) in rows {
        *seen.entry(id.clone()).or_insert(0) += 1;
    }
    let mut out = Vec::new();
    for (family, count) in COUNTS {
        for number in 1..=*count {
            match seen.remove(&id(family, number)) {
                Some(1) => {}
                Some(times) => out.push(format!("{} stands there {times} times", id(family, number))),
                None => out.push(format!("{} is missing", id(family, number))),
            }
        }
    }
    out.extend(seen.into_keys().map(|id| format!("{id} is no id of the documents")));
    out
}

/// The names of all test functions of a source that are not ignored.
fn test_names(text: &str) -> BTreeSet<String> {
    let code = code_only(text);
    let mut out = BTreeSet::new();
    for (offset, attribute) in code.match_indices("#[test]") {
        let after = &code[offset + attribute.len()..];
        // Other attributes may stand between this one and the function, or before it.
        let Some(end) = after.find("fn ") else { continue };
        let ignored = after[..end].contains("#[ignore") || attributes_before(&code, offset).contains("#[ignore");
        let only_attributes = !after[..end].contains(['{', '}', ';']);
        if only_attributes && !ignored {
            let name: String = after[end + 3..]
                .chars()
                .take_while(|character| character.is_alphanumeric() || *character == '_')
                .collect();
            out.insert(name);
        }
    }
    // proptest! and similar macros write `#[test]` inside the macro too, so they are found the same way.
    out
}

/// The run of attribute lines directly above an offset.
fn attributes_before(code: &str, offset: usize) -> String {
    code[..offset]
        .lines()
        .rev()
        .skip_while(|line| line.trim().is_empty())
        .take_while(|line| line.trim().starts_with("#["))
        .collect()
}

/// What is wrong with the tests that the table names.
fn test_problems(rows: &[(String, State)], known: &BTreeSet<String>) -> Vec<String> {
    let mut out = Vec::new();
    for (id, state) in rows {
        let State::Done(tests) = state else { continue };
        for test in tests {
            let name = test.rsplit("::").next().unwrap_or(test);
            if !known.contains(name) {
                out.push(format!("{id} is done by {test}, and there is no such test that runs"));
            }
        }
    }
    out
}

fn table() -> Vec<(String, State)> {
    let text = fs::read_to_string(root().join("docs/parity.md")).expect("docs/parity.md can be read");
    rows(&text).unwrap_or_else(|problem| panic!("docs/parity.md: {problem}"))
}

#[test]
fn every_capability_stands_once() {
    let problems = id_problems(&table());
    assert!(problems.is_empty(), "docs/parity.md:\n{}", problems.join("\n"));
}

#[test]
fn every_named_test_exists() {
    let mut known = BTreeSet::new();
    for folder in ["src", "tests"] {
        for file in sources(folder, |path| path.ends_with(".rs")) {
            known.extend(test_names(&file.text));
        }
    }
    let problems = test_problems(&table(), &known);
    assert!(problems.is_empty(), "docs/parity.md:\n{}", problems.join("\n"));
}

// ---------------------------------------------------------------------------------------------- planted violations

#[test]
fn planted_holes_in_the_ids_are_found() {
    let whole: Vec<(String, State)> =
        COUNTS.iter().flat_map(|(family, count)| (1..=*count).map(move |n| (id(family, n), State::Later))).collect();
    assert_eq!(id_problems(&whole), Vec::<String>::new());
    assert_eq!(whole.len(), 433);
    let mut missing: Vec<_> = whole.iter().map(|(id, _)| (id.clone(), State::Later)).collect();
    missing.remove(128);
    assert_eq!(id_problems(&missing), ["K-129 is missing"]);
    missing.push(("K-1".into(), State::Later));
    missing.push(("M79".into(), State::Later));
    assert_eq!(
        id_problems(&missing),
        ["K-1 stands there 2 times", "K-129 is missing", "M79 is no id of the documents"]
    );
}

#[test]
fn planted_bad_states_are_found() {
    assert_eq!(
        rows("| K-1 | a | later |\n| M2 | b | done a_test, b::c |").unwrap()[1].1,
        State::Done(vec!["a_test".into(), "b::c".into()])
    );
    for bad in [
        "| K-1 | a | done |",
        "| K-1 | a | refused |",
        "| K-1 | a | refused no |",
        "| K-1 | a | soon |",
        "| K-1 | | later |",
        "| K-1 | later |",
    ] {
        assert!(rows(bad).is_err(), "{bad}");
    }
}

#[test]
fn planted_missing_and_ignored_tests_are_found() {
    let known = test_names(
        "#[test]\nfn here() {}\n#[test]\n#[should_panic(expected = \"x\")]\nfn also() {}\nfn helper() {}\n\
         #[test]\n#[ignore = \"slow\"]\nfn asleep() {}\n#[ignore]\n#[test]\nfn dozing() {}\n// #[test]\n// fn comment() {}\n",
    );
    assert_eq!(known.iter().map(String::as_str).collect::<Vec<_>>(), ["also", "here"]);
    let done = |name: &str| vec![("K-1".to_owned(), State::Done(vec![name.to_owned()]))];
    assert!(test_problems(&done("room::tests::here"), &known).is_empty());
    for name in ["helper", "asleep", "dozing", "comment", "elsewhere"] {
        assert_eq!(test_problems(&done(name), &known).len(), 1, "{name}");
    }
}
