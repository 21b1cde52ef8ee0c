//! Hostile text for what people write: configuration files, `-X key=value`, environment variables, bootstrap servers.
//! Nothing panics, nothing takes more memory than a small file may, and what is wrong is said in a line.

#![cfg(feature = "config-files")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

#[path = "common/counting.rs"]
#[allow(dead_code)]
mod counting;
mod fuzz_support;

use std::path::PathBuf;

use bolero::{check, produce};
use counting::peak_bytes;
use fuzz_support::{Recipe, iterations};
use ottla::config::table::SETTINGS;
use ottla::config::{ConfigError, Layers};
use ottla::net::HostPort;

/// A file of its own, removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("ottla-fuzz-{}-{name}", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What parsing may take, whatever the text: the parsers have budgets of their own beyond which they refuse.
fn allowed(input: usize) -> usize {
    (6 << 20) + 400 * input
}

/// Everything that is done with settings once they are read.
fn use_them(layers: &Layers) {
    let _ = (layers.engine(), layers.producer(), layers.consumer());
    assert!(layers.dump().lines().all(|line| !line.contains('\u{1b}')));
}

fn said_well(error: &ConfigError, input: &str) {
    let said = error.to_string();
    assert!(!said.is_empty() && said.len() < 2_000 + 8 * input.len(), "{said}");
}

/// A file as somebody would write it, with every key that is there.
fn whole(pair: impl Fn(&str, &str) -> String) -> String {
    let known = SETTINGS.iter().filter(|setting| !setting.default.is_empty());
    known.map(|setting| pair(setting.name, setting.default)).collect()
}

fn toml() -> Vec<String> {
    vec![
        whole(|name, default| format!("\"{name}\" = \"{default}\"\n")),
        "bootstrap_servers = [\"a:9092\", \"b:9092\"]\n[linger]\nms = 5\n[settings]\n\"acks\" = \"all\"\n".into(),
        "# nothing\n".into(),
        "\"batch.size\" = 2000\n\"enable.idempotence\" = true\n[buffer]\nmemory = 33554432\n".into(),
        "linger = { ms = 5 }\n\"client.id\" = '''a\nb'''\n\"client.rack\" = \"\\u00e9\"\n".into(),
    ]
}

fn yaml() -> Vec<String> {
    vec![
        whole(|name, default| format!("{name}: \"{default}\"\n")),
        "bootstrap_servers:\n  - a:9092\n  - b:9092\nsettings:\n  acks: all\n  linger.ms: 5\n".into(),
        "# nothing\n".into(),
        "linger: {ms: 5}\nclient.id: >\n  folded\n  text\nclient.rack: |\n  kept\n".into(),
        "settings: &all\n  acks: all\nproducer: *all\n".into(),
        // Nine times nine times ...: the parser's budget ends it.
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
         d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
         g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\ni: [*h,*h,*h,*h,*h,*h,*h,*h,*h]\n"
            .into(),
        "? [complex, key]\n: value\n!!binary x: !custom y\n--- second\n...\n".into(),
        format!("a: {}{}\n", "[".repeat(3_000), "]".repeat(3_000)),
        format!("a: {}\n", "{b: ".repeat(3_000)),
    ]
}

/// Reads the bytes as a file of that name, and says how it went.
fn read(file: &File, input: &[u8]) -> (Result<(), ConfigError>, usize) {
    std::fs::write(&file.0, input).unwrap();
    let mut layers = Layers::new();
    let (result, peak) = peak_bytes(|| layers.set_file(&file.0));
    assert!(peak <= allowed(input.len()), "{peak} bytes for a file of {}", input.len());
    if let Err(error) = &result {
        said_well(error, &String::from_utf8_lossy(input));
    }
    use_them(&layers);
    (result, peak)
}

#[test]
fn fuzz_toml_files() {
    let (file, corpus) = (File::new("a.toml"), toml());
    corpus.iter().for_each(|text| read(&file, text.as_bytes()).0.unwrap());
    check!().with_iterations(iterations(500)).with_type::<Recipe>().for_each(|recipe| {
        let _ = read(&file, &recipe.cook(&corpus));
    });
}

#[test]
fn fuzz_yaml_files() {
    let (file, corpus) = (File::new("a.yaml"), yaml());
    corpus.iter().take(4).for_each(|text| read(&file, text.as_bytes()).0.unwrap());
    let peaks: Vec<usize> = corpus.iter().map(|text| read(&file, text.as_bytes()).1).collect();
    println!("bytes of memory per file: {peaks:?}");
    check!().with_iterations(iterations(1_000)).with_type::<Recipe>().for_each(|recipe| {
        let _ = read(&file, &recipe.cook(&corpus));
    });
}

#[test]
fn fuzz_settings_by_key() {
    let corpus: Vec<String> = SETTINGS.iter().map(|setting| format!("{}={}", setting.name, setting.default)).collect();
    let names: Vec<String> = SETTINGS
        .iter()
        .map(|setting| format!("KAFKA_SETTING_{}", setting.name.to_uppercase().replace('.', "_")))
        .collect();
    check!().with_iterations(iterations(300)).with_type::<(Recipe, u16)>().for_each(|(recipe, name)| {
        let input = String::from_utf8_lossy(&recipe.cook(&corpus)).into_owned();
        let mut layers = Layers::new();
        let (results, peak) = peak_bytes(|| {
            let variable = (names[usize::from(*name) % names.len()].clone(), input.clone());
            [layers.set_flag(&input), layers.set_env([variable, (input.clone(), input.clone())].into_iter())]
        });
        assert!(peak <= allowed(input.len()), "{peak} bytes for {input:?}");
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            said_well(error, &input);
        }
        use_them(&layers);
    });
}

#[test]
fn fuzz_bootstrap_servers() {
    const CORPUS: [&str; 8] = [
        "localhost:9092",
        "kafka-1.example.com.:65535",
        "10.0.0.1:1",
        "[::1]:9092",
        "[fe80::1%eth0]:9092",
        "PLAINTEXT://broker:9092",
        "a:1,b:2, [2001:db8::7]:3",
        "under_score-and.dots:9",
    ];
    let parts = (produce::<Recipe>(), produce::<i32>());
    check!().with_iterations(iterations(10_000)).with_generator(parts).for_each(|(recipe, port)| {
        let input = String::from_utf8_lossy(&recipe.cook(&CORPUS)).into_owned();
        for parsed in input.split(',').map(str::parse::<HostPort>).chain([HostPort::new(&input, *port)]) {
            let Ok(host) = parsed else { continue };
            assert!(!host.host().is_empty() && host.host().len() <= 254 && host.port() > 0);
            assert!(host.host().is_ascii() && !host.host().contains([' ', '/', '@', '\n', '[', ']']), "{host}");
            assert_eq!(host.to_string().parse::<HostPort>().as_ref(), Ok(&host), "{host}");
            let _ = (host.tls_name(), host.literal());
        }
        let mut layers = Layers::new();
        if layers.set_flag(&format!("bootstrap.servers={input}")).is_ok()
            && let Ok(settings) = layers.engine()
        {
            let _ = settings.validate();
        }
    });
}
