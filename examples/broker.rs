//! The embedded broker as a program, until `ottla broker` wraps it:
//! `broker [--listen 127.0.0.1:9092] [--brokers N] [--topic NAME:PARTITIONS]... [--auto-create] [--validate full|header]`
//!
//! Prints one line with its addresses on stdout, then serves until it is killed.

use std::io::Write;
use std::process::ExitCode;

use ottla::testkit::broker::{Broker, Builder, Validate, run};

const USAGE: &str = "usage: broker [--listen 127.0.0.1:9092] [--brokers N] [--topic NAME:PARTITIONS]... [--auto-create] \
                     [--validate full|header]";

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Builder, String> {
    let mut builder = Broker::builder().listen("127.0.0.1:9092");
    while let Some(flag) = arguments.next() {
        if flag == "--auto-create" {
            builder = builder.auto_create(true);
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        builder = match flag.as_str() {
            "--listen" => builder.listen(&value),
            "--brokers" => builder.brokers(value.parse().map_err(|_| format!("--brokers {value}: not a number"))?),
            "--topic" => {
                let (name, count) = value.rsplit_once(':').ok_or_else(|| format!("--topic {value}: no partitions"))?;
                builder.topic(name, count.parse().map_err(|_| format!("--topic {value}: not a number"))?)
            }
            "--validate" => builder.validate(match value.as_str() {
                "full" => Validate::Full,
                "header" => Validate::Header,
                _ => return Err(format!("--validate {value}: full or header")),
            }),
            _ => return Err(format!("unknown flag {flag}")),
        };
    }
    Ok(builder)
}

fn main() -> ExitCode {
    let builder = match parse(std::env::args().skip(1)) {
        Ok(builder) => builder,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let ready = |broker: &Broker| {
        // A closed stdout does not matter to who listens on the ports.
        let _ = writeln!(std::io::stdout(), "listening on {}", broker.bootstrap());
    };
    match run(builder, ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
