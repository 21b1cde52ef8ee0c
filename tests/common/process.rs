//! A broker in a process of its own, and the memory of this one.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A program that is killed when the test is over.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `ottla broker` with more arguments, and gives its address. It ends with our end of its standard input too.
pub fn broker(more: &[&str]) -> (Running, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KAFKA_")) {
        command.env_remove(name);
    }
    command.args(["broker", "--listen", "127.0.0.1:0", "--json", "--exit-with-stdin"]).args(more);
    let mut broker = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(broker.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    (broker, ready["bootstrap"].as_str().unwrap().to_owned())
}

/// What the kernel says of this process's memory, in bytes: `VmRSS` now, `VmHWM` at most.
pub fn memory(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// From here on `VmHWM` is anew.
pub fn forget_peak_memory() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}
