//! `ottla broker`: the embedded broker as a program, for other people's clients too.

use std::io::{self, Read};

use serde_json::json;

use crate::cli::args::{self, BrokerArgs};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::testkit::broker::{Broker, Builder, Validate, run as serve};

pub fn run(args: &BrokerArgs, output: &Output) -> Result<(), Failure> {
    let builder = builder(args)?;
    if args.exit_with_stdin {
        std::thread::spawn(|| {
            // Whatever comes is read away; the end of it is the end of the program that started us.
            let mut sink = [0; 256];
            let mut input = io::stdin().lock();
            while !matches!(input.read(&mut sink), Ok(0) | Err(_)) {}
            std::process::exit(0);
        });
    }
    let ready = |broker: &Broker| {
        let bootstrap = broker.bootstrap();
        // A reader that went away does not matter to those who listen on the ports.
        let _ = if output.json {
            output.json(&json!({"bootstrap": bootstrap, "pid": std::process::id()}))
        } else {
            output.text(&format!("listening on {bootstrap}"))
        };
    };
    serve(builder, ready).map_err(|error| Failure::Failed(format!("--listen {}: {error}", args.listen)))
}

fn builder(args: &BrokerArgs) -> Result<Builder, Failure> {
    let mut builder =
        Broker::builder().listen(&args.listen).brokers(args.brokers as usize).auto_create(args.auto_create).validate(
            match args.validate {
                args::Validate::Full => Validate::Full,
                args::Validate::Header => Validate::Header,
            },
        );
    for text in &args.topics {
        let topic = text
            .rsplit_once(':')
            .and_then(|(name, partitions)| Some((name, partitions.parse::<i32>().ok().filter(|count| *count > 0)?)));
        let Some((name, partitions)) = topic.filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::Usage(format!("--topic {}: expected NAME:PARTITIONS", text.escape_debug())));
        };
        builder = builder.topic(name, partitions);
    }
    Ok(builder)
}
