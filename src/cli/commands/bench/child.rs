//! The embedded broker in a process of its own, so that its CPU and memory are not counted as the client's.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::cli::failure::Failure;

/// A broker process that ends with us: it watches its standard input, which closes when we are gone.
pub struct BrokerChild {
    child: Child,
    bootstrap: String,
}

impl BrokerChild {
    /// Starts `ottla broker` on a free port and waits until it says where it listens.
    pub fn start(auto_create: bool) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::failed)?;
        let mut command = Command::new(program);
        command.args(["broker", "--listen", "127.0.0.1:0", "--json", "--exit-with-stdin"]);
        if auto_create {
            command.arg("--auto-create");
        }
        // The user's settings are for the client under test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KAFKA_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::Failed(format!("embedded broker: {error}")))?;
        let mut line = String::new();
        let said = match child.stdout.take() {
            Some(stdout) => BufReader::new(stdout).read_line(&mut line).map(|_| ()),
            None => Ok(()),
        };
        let bootstrap = said.ok().and_then(|()| {
            let ready: serde_json::Value = serde_json::from_str(&line).ok()?;
            Some(ready.get("bootstrap")?.as_str()?.to_owned())
        });
        let mut started = Self { child, bootstrap: String::new() };
        match bootstrap {
            Some(bootstrap) => {
                started.bootstrap = bootstrap;
                Ok(started)
            }
            None => Err(Failure::Failed("the embedded broker did not start; try `ottla broker` to see why".into())),
        }
    }

    /// Where it listens.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for BrokerChild {
    fn drop(&mut self) {
        // Its memory is all there is to lose: no need to ask politely.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
