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
    /// It drops what it gets and replays what it kept: every topic exists, nothing is created.
    pub sink: bool,
    /// Its second listener: where clients of that are told to come to, and where it is.
    proxied: Option<(String, String)>,
    /// What ends with us.
    _ending: Option<Ending>,
}

/// A network with a round trip in front of the broker's second listener.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients come to.
    pub address: String,
    /// Its process.
    pub pid: u32,
    _ending: Ending,
}

/// A process whose standard input is a pipe from us: when we are gone, however that came, it ends what it has to.
#[derive(Debug)]
struct Ending(Child);

impl Broker {
    /// Somebody else's brokers.
    pub fn given(bootstrap: &str, pids: &[u32]) -> Self {
        Self {
            name: "given".into(),
            bootstrap: bootstrap.into(),
            pids: pids.to_vec(),
            sink: false,
            proxied: None,
            _ending: None,
        }
    }

    /// A real Kafka of so many nodes, by `ci/kafka`.
    pub fn kafka(root: &Path, nodes: u32, core: Option<usize>) -> Result<Self, Fault> {
        let program = root.join("ci/kafka");
        let scratch = std::env::temp_dir().join(format!("ottla-bench-{}-{nodes}", std::process::id()));
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
        let mut broker = Self {
            name: String::new(),
            bootstrap: String::new(),
            pids: Vec::new(),
            sink: false,
            proxied: None,
            _ending,
        };
        let mut start = Command::new(&program);
        start.args(["start", "--nodes", &nodes.to_string(), "--steady", "--json", "--dir"]).arg(&scratch);
        if nodes == 1 {
            start.arg("--proxied");
        }
        if let Some(core) = core {
            start.args(["--cpus", &core.to_string()]);
        }
        let started = start.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let started = started.map_err(Fault::failed(format!("cannot start {}", program.display())))?;
        let said: Option<Value> = serde_json::from_slice(&started.stdout).ok().filter(|_| started.status.success());
        let hint = "ci/kafka did not start a broker (it needs Java 17 and Maven; or give one with -b HOST:PORT)";
        let said = said.ok_or_else(|| Fault::Failed(hint.into()))?;
        let cluster = if nodes > 1 { format!(", {nodes} nodes") } else { String::new() };
        broker.name = format!("Apache Kafka {}{cluster}", said["version"].as_str().unwrap_or("?"));
        broker.bootstrap = said["bootstrap"].as_str().unwrap_or_default().to_owned();
        let nodes = said["nodes"].as_array().into_iter().flatten();
        broker.pids = nodes.filter_map(|node| node["pid"].as_u64()?.try_into().ok()).collect();
        let text = |place: usize| said["proxied"][0][place].as_str().map(str::to_owned);
        broker.proxied = text(0).zip(text(1));
        Ok(broker)
    }

    /// The embedded broker, by `ottla broker`.
    pub fn embedded(ottla: &Path, core: Option<usize>) -> Result<Self, Fault> {
        let mut command = Command::new(ottla);
        command.args(["broker", "--listen", "127.0.0.1:0", "--json", "--exit-with-stdin"]);
        without_settings(&mut command);
        let (ready, pid, ending) = start_child(core, &mut command)?;
        let (pids, _ending) = (vec![pid], Some(ending));
        let bootstrap = ready["bootstrap"].as_str().unwrap_or_default().to_owned();
        let broker =
            Self { name: "ottla's embedded broker".into(), bootstrap, pids, sink: false, proxied: None, _ending };
        if broker.bootstrap.is_empty() {
            return Err(Fault::Failed("the embedded broker did not start; try `ottla broker` to see why".into()));
        }
        Ok(broker)
    }

    /// The one that is never the limit, `src/bin/sink`.
    pub fn sink(program: &Path, core: Option<usize>) -> Result<Self, Fault> {
        let (ready, pid, ending) = start_child(core, &mut Command::new(program))?;
        let bootstrap = ready["bootstrap"].as_str().map(str::to_owned);
        let bootstrap = bootstrap.ok_or_else(|| Fault::Failed("the sink did not start".into()))?;
        let (name, pids, _ending) = ("a sink".into(), vec![pid], Some(ending));
        Ok(Self { name, bootstrap, pids, sink: true, proxied: None, _ending })
    }

    /// A proxy that makes a round trip take so long, by `ottla proxy`; on the broker's core, so that it costs clients
    /// nothing but time.
    pub fn proxy(&self, ottla: &Path, rtt_ms: u32, core: Option<usize>) -> Result<Proxy, Fault> {
        let hint = "a scenario with a round trip needs a Kafka that was started here: its listener names the proxy";
        let (listen, to) = self.proxied.as_ref().ok_or_else(|| Fault::Usage(hint.into()))?;
        let mut command = Command::new(ottla);
        command.args(["proxy", "--listen", listen, "--to", to, "--delay-ms", &(rtt_ms / 2).to_string()]);
        without_settings(command.args(["--json", "--exit-with-stdin"]));
        let (ready, pid, _ending) = start_child(core, &mut command)?;
        let address = ready["address"].as_str().map(str::to_owned);
        let address = address.ok_or_else(|| Fault::Failed("the proxy did not start; see `ottla proxy`".into()))?;
        Ok(Proxy { address, pid, _ending })
    }

    /// User and system time of its processes so far; `None` where they are not known.
    pub fn cpu(&self) -> Option<Duration> {
        if self.pids.is_empty() {
            return None;
        }
        self.pids.iter().map(|pid| cpu_of(*pid)).sum()
    }
}

/// Starts a program that ends with its standard input, and reads the line that says it is ready: nothing if none came.
fn start_child(core: Option<usize>, command: &mut Command) -> Result<(Value, u32, Ending), Fault> {
    let mut child = spawn_on(core, command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        // An error shows as no line.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    Ok((serde_json::from_str(&line).unwrap_or_default(), child.id(), Ending(child)))
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing can be done about a child that was already waited for.
        let _ = self.0.wait();
    }
}
