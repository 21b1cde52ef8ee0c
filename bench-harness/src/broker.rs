//! The broker under test: started here and ended here, or somebody else's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::fault::Fault;
use crate::machine::{cpu_of, spawn_on};
use crate::peer::without_settings;

/// Brokers that answer.
#[derive(Debug)]
pub struct Broker {
    /// What it is, for the report.
    pub name: String,
    /// Where it is.
    pub bootstrap: String,
    /// Its processes, where they are known.
    pub pids: Vec<u32>,
    /// What ends with us.
    _ending: Option<Ending>,
}

/// A process whose standard input is a pipe from us: when we are gone, however that came, it ends what it has to.
#[derive(Debug)]
struct Ending(Child);

impl Broker {
    /// Somebody else's brokers.
    pub fn given(bootstrap: &str, pids: &[u32]) -> Self {
        Self { name: "given".into(), bootstrap: bootstrap.into(), pids: pids.to_vec(), _ending: None }
    }

    /// A real Kafka of one node, by `ci/kafka`.
    pub fn kafka(root: &Path, core: Option<usize>) -> Result<Self, Fault> {
        let program = root.join("ci/kafka");
        let scratch = std::env::temp_dir().join(format!("ottla-bench-{}", std::process::id()));
        fs::create_dir_all(&scratch).map_err(Fault::failed(scratch.display()))?;
        // Waits in a process group of its own, so that Ctrl-C ends us and not the one who cleans up behind us.
        let guard = Command::new("sh")
            .args(["-c", "cat >/dev/null; \"$0\" stop --dir \"$1\"; rm -rf \"$1\""])
            .args([&program, &scratch])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Fault::failed("cannot start sh"))?;
        let _ending = Some(Ending(guard));
        let mut broker = Self { name: String::new(), bootstrap: String::new(), pids: Vec::new(), _ending };
        let mut start = Command::new(&program);
        start.args(["start", "--nodes", "1", "--json", "--dir"]).arg(&scratch);
        if let Some(core) = core {
            start.args(["--cpus", &core.to_string()]);
        }
        let started = start.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let started = started.map_err(Fault::failed(format!("cannot start {}", program.display())))?;
        let said: Option<Value> = serde_json::from_slice(&started.stdout).ok().filter(|_| started.status.success());
        let hint = "ci/kafka did not start a broker (it needs Java 17 and Maven; or give one with -b HOST:PORT)";
        let said = said.ok_or_else(|| Fault::Failed(hint.into()))?;
        broker.name = format!("Apache Kafka {}", said["version"].as_str().unwrap_or("?"));
        broker.bootstrap = said["bootstrap"].as_str().unwrap_or_default().to_owned();
        let nodes = said["nodes"].as_array().into_iter().flatten();
        broker.pids = nodes.filter_map(|node| node["pid"].as_u64()?.try_into().ok()).collect();
        Ok(broker)
    }

    /// The embedded broker, by `ottla broker`.
    pub fn embedded(ottla: &Path, core: Option<usize>) -> Result<Self, Fault> {
        let mut command = Command::new(ottla);
        command.args(["broker", "--listen", "127.0.0.1:0", "--json", "--exit-with-stdin"]);
        without_settings(&mut command);
        let mut child = spawn_on(core, command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            // An error shows as no line.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let pids = vec![child.id()];
        let _ending = Some(Ending(child));
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        let bootstrap = ready["bootstrap"].as_str().unwrap_or_default().to_owned();
        let broker = Self { name: "ottla's embedded broker".into(), bootstrap, pids, _ending };
        if broker.bootstrap.is_empty() {
            return Err(Fault::Failed("the embedded broker did not start; try `ottla broker` to see why".into()));
        }
        Ok(broker)
    }

    /// User and system time of its processes so far; `None` where they are not known.
    pub fn cpu(&self) -> Option<Duration> {
        if self.pids.is_empty() {
            return None;
        }
        self.pids.iter().map(|pid| cpu_of(*pid)).sum()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing can be done about a child that was already waited for.
        let _ = self.0.wait();
    }
}
