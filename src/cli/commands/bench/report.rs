//! What was measured, as a table and as JSON with the same fields.

use serde_json::{Value, json};

use super::Plan;
use super::meter::Cost;
use crate::cli::args::Verify;
use crate::cli::connect::Session;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, grouped, mib, span};

/// One phase.
pub struct Row {
    pub phase: &'static str,
    pub messages: u64,
    pub cost: Cost,
    /// Median, 99 % and 99.9 % of the time from send to callback, in microseconds.
    pub ack_us: Option<[u64; 3]>,
    pub batches: u64,
    pub requests: u64,
    pub wire_bytes: u64,
    /// Whether every record was as it was sent, and how that was looked at.
    pub verified: Option<(bool, Verify)>,
    /// Sum over what was read, where only a sum was made.
    pub checksum: Option<String>,
}

/// Settings and phases.
pub struct Report {
    settings: Value,
    backend: &'static str,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(plan: &Plan<'_>, session: &Session) -> Result<Self, Failure> {
        let (backend, reason) = session.backend();
        let args = plan.args;
        let key = |name: &str| plan.layers.get(name).map_or(Value::Null, |(value, _)| json!(value.to_string()));
        let producer = plan.layers.producer()?;
        let settings = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "bootstrap": key("bootstrap.servers"),
            "topic": args.topic,
            "partitions": plan.partitions,
            "messages": args.messages,
            "workload": args.workload.to_string(),
            "lanes": args.lanes,
            "local": args.local,
            "shards": key("shards"),
            "cpu_affinity": key("cpu.affinity"),
            "backend": backend,
            "backend_reason": reason,
            "compression": key("compression.type"),
            "acks": key("acks"),
            "idempotence": producer.idempotence,
            "linger_ms": key("linger.ms"),
            "batch_size": key("batch.size"),
            "batch_messages": key("batch.num.messages"),
            "buffer_memory": key("buffer.memory"),
            "fetch_memory": key("fetch.memory"),
            "rate": args.rate,
            "waited": args.waited,
            "ack_sample": if args.rate.is_some() || args.waited { 1 } else { super::phases::ACK_SAMPLE },
        });
        Ok(Self { settings, backend, rows: Vec::new() })
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub fn print(&self, output: &Output) -> Result<(), Failure> {
        if output.json {
            let phases: Vec<Value> = self.rows.iter().map(|row| self.row_json(row)).collect();
            return output.json(&json!({"settings": self.settings, "phases": phases}));
        }
        let text = |name: &str| {
            let value = &self.settings[name];
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        };
        output.text(&format!(
            "{} {} records, {} partitions, {}, acks {}, linger {} ms, {} on {}",
            grouped(self.settings["messages"].as_u64().unwrap_or(0)),
            text("workload"),
            text("partitions"),
            text("compression"),
            text("acks"),
            text("linger_ms"),
            self.backend,
            text("bootstrap"),
        ))?;
        let header = [
            "phase",
            "records",
            "seconds",
            "records/s",
            "CPU us/record",
            "peak RSS",
            "ack p50",
            "ack p99",
            "ack p99.9",
            "batches",
            "requests",
            "wire",
            "broker CPU",
            "broker RSS",
            "compared",
        ];
        let rows = self.rows.iter().map(row_text).collect();
        output.table(&header, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], rows)
    }

    fn row_json(&self, row: &Row) -> Value {
        let mut value = json!({
            "phase": row.phase,
            "messages": row.messages,
            "seconds": row.cost.wall.as_secs_f64(),
            "messages_per_s": per_second(row),
            "cpu_us_per_message": cpu_us(row),
            "process_cpu_seconds": row.cost.process_cpu.as_secs_f64(),
            "context_switches": row.cost.context_switches,
            "max_rss_bytes": row.cost.max_rss_bytes,
            "batches": row.batches,
            "requests": row.requests,
            "wire_bytes": row.wire_bytes,
            "backend": self.backend,
        });
        if let Some([p50, p99, p999]) = row.ack_us {
            value["ack_us"] = json!({"p50": p50, "p99": p99, "p999": p999});
        }
        if let Some((verified, by)) = row.verified {
            value["verified"] = json!(verified);
            value["verify"] = json!(if by == Verify::Full { "full" } else { "sum" });
        }
        if let Some(checksum) = &row.checksum {
            value["checksum"] = json!(checksum);
        }
        if let Some(cpu) = row.cost.broker_cpu {
            value["broker_cpu_seconds"] = json!(cpu.as_secs_f64());
        }
        if let Some(bytes) = row.cost.broker_max_rss_bytes {
            value["broker_max_rss_bytes"] = json!(bytes);
        }
        value
    }
}

fn per_second(row: &Row) -> f64 {
    row.messages as f64 / row.cost.wall.as_secs_f64().max(1e-9)
}

fn cpu_us(row: &Row) -> f64 {
    row.cost.cpu.as_secs_f64() * 1e6 / (row.messages.max(1)) as f64
}

fn row_text(row: &Row) -> Vec<String> {
    let none = || "-".to_owned();
    let ack = |place: usize| row.ack_us.map_or_else(none, |ack| span(std::time::Duration::from_micros(ack[place])));
    vec![
        row.phase.to_owned(),
        grouped(row.messages),
        format!("{:.2}", row.cost.wall.as_secs_f64()),
        grouped(per_second(row) as u64),
        format!("{:.3}", cpu_us(row)),
        mib(row.cost.max_rss_bytes),
        ack(0),
        ack(1),
        ack(2),
        grouped(row.batches),
        grouped(row.requests),
        mib(row.wire_bytes),
        row.cost.broker_cpu.map_or_else(none, |cpu| format!("{:.2} s", cpu.as_secs_f64())),
        row.cost.broker_max_rss_bytes.map_or_else(none, mib),
        match row.verified {
            Some((true, Verify::Full)) => "all equal".to_owned(),
            Some((true, Verify::Sum)) => "sum equal".to_owned(),
            Some((false, _)) => "DIFFERENT".to_owned(),
            None => none(),
        },
    ]
}
