//! `ottla proxy`: the testkit's proxy as a program: a network with a round trip, in front of any broker.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread::park;
use std::time::Duration;

use serde_json::json;

use crate::cli::args::ProxyArgs;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::testkit::proxy::Proxy;

pub fn run(args: &ProxyArgs, output: &Output) -> Result<(), Failure> {
    let proxy = Proxy::start(address("--listen", &args.listen)?, address("--to", &args.to)?);
    let proxy = proxy.map_err(|error| Failure::Failed(format!("--listen {}: {error}", args.listen)))?;
    proxy.set_delay(Duration::from_millis(args.delay_ms));
    let listens = proxy.address();
    if output.json {
        output.json(&json!({"address": listens.to_string(), "pid": std::process::id()}))?;
    } else {
        output.text(&format!("listening on {listens}, {} ms each way to {}", args.delay_ms, args.to))?;
    }
    if args.exit_with_stdin {
        // Whatever comes is read away; the end of it is the end of the program that started us.
        return io::copy(&mut io::stdin().lock(), &mut io::sink()).map(|_| ()).map_err(Failure::failed);
    }
    loop {
        park();
    }
}

fn address(flag: &str, text: &str) -> Result<SocketAddr, Failure> {
    let found = text.to_socket_addrs().map_err(|error| Failure::Usage(format!("{flag} {text}: {error}")))?.next();
    found.ok_or_else(|| Failure::Usage(format!("{flag} {text}: no address")))
}
