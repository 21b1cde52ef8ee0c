//! `ottla topics list | describe | create | delete`.

use serde_json::json;

use crate::admin::{AdminError, NewTopic, OffsetSpec, TopicInfo};
use crate::cli::args::{Brokers, TopicsCommand};
use crate::cli::connect::{Session, engine};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{IsolationLevel, Layers};

pub fn brokers(command: &TopicsCommand) -> &Brokers {
    match command {
        TopicsCommand::List { brokers }
        | TopicsCommand::Describe { brokers, .. }
        | TopicsCommand::Create { brokers, .. }
        | TopicsCommand::Delete { brokers, .. } => brokers,
    }
}

pub fn run(command: TopicsCommand, layers: &Layers, output: &Output) -> Result<(), Failure> {
    let session = engine(layers)?;
    match command {
        TopicsCommand::List { .. } => list(&session, output),
        TopicsCommand::Describe { topics, .. } => describe(&session, topics, output),
        TopicsCommand::Create { topic, partitions, replication_factor, configs, .. } => {
            let mut new = NewTopic::new(topic, partitions).replication(replication_factor);
            for text in configs {
                let Some((key, value)) = text.split_once('=') else {
                    return Err(Failure::Usage(format!("--topic-config {}: expected KEY=VALUE", text.escape_debug())));
                };
                new = new.config(key, value);
            }
            create(&session, new, output)
        }
        TopicsCommand::Delete { topics, .. } => delete(&session, topics, output),
    }
}

fn replication(topic: &TopicInfo) -> usize {
    topic.partitions.first().map_or(0, |partition| partition.replicas.len())
}

fn list(session: &Session, output: &Output) -> Result<(), Failure> {
    let mut topics = session.admin().list_topics().wait().map_err(Failure::failed)?;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    if output.json {
        return output.json(
            &topics
                .iter()
                .map(|topic| {
                    json!({
                        "name": topic.name,
                        "id": topic.id.to_string(),
                        "internal": topic.internal,
                        "partitions": topic.partitions.len(),
                        "replication_factor": replication(topic),
                    })
                })
                .collect(),
        );
    }
    let rows = topics
        .iter()
        .map(|topic| {
            vec![
                topic.name.clone(),
                topic.partitions.len().to_string(),
                replication(topic).to_string(),
                topic.id.to_string(),
                if topic.internal { "internal".into() } else { String::new() },
            ]
        })
        .collect();
    output.table(&["topic", "partitions", "replicas", "id", ""], &[1, 2], rows)
}

/// First and next offset of a partition, where the leader tells.
type Span = (Option<i64>, Option<i64>);

fn spans(session: &Session, topic: &TopicInfo) -> Result<Vec<Span>, AdminError> {
    let ask = |spec| {
        let wanted: Vec<_> =
            topic.partitions.iter().map(|partition| (topic.name.as_str(), partition.index, spec)).collect();
        session.admin().list_offsets(wanted, IsolationLevel::ReadUncommitted).wait()
    };
    let offset = |found: Result<crate::admin::ListedOffset, AdminError>| found.ok().and_then(|listed| listed.offset);
    let (first, next) = (ask(OffsetSpec::Earliest)?, ask(OffsetSpec::Latest)?);
    Ok(first.into_iter().zip(next).map(|((_, first), (_, next))| (offset(first), offset(next))).collect())
}

fn describe(session: &Session, names: Vec<String>, output: &Output) -> Result<(), Failure> {
    let described = session.admin().describe_topics(names).wait().map_err(Failure::failed)?;
    let mut trouble = Vec::new();
    let mut shown = Vec::new();
    for (_, outcome) in described {
        match outcome {
            Ok(topic) => {
                let spans = spans(session, &topic).map_err(Failure::failed)?;
                shown.push((topic, spans));
            }
            Err(error) => trouble.push(error.to_string()),
        }
    }
    if output.json {
        let topics: Vec<_> = shown
            .iter()
            .map(|(topic, spans)| {
                let partitions: Vec<_> = topic
                    .partitions
                    .iter()
                    .zip(spans)
                    .map(|(partition, (first, next))| {
                        json!({
                            "partition": partition.index,
                            "leader": partition.leader,
                            "leader_epoch": partition.leader_epoch,
                            "replicas": partition.replicas,
                            "isr": partition.isr,
                            "offline": partition.offline,
                            "first_offset": first,
                            "next_offset": next,
                        })
                    })
                    .collect();
                json!({
                    "name": topic.name,
                    "id": topic.id.to_string(),
                    "internal": topic.internal,
                    "partitions": partitions,
                })
            })
            .collect();
        output.json(&topics.into())?;
    } else {
        for (topic, spans) in &shown {
            output.text(&format!("{}  id {}", topic.name, topic.id))?;
            let number = |number: Option<i64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
            let nodes = |nodes: &[i32]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let rows = topic
                .partitions
                .iter()
                .zip(spans)
                .map(|(partition, (first, next))| {
                    vec![
                        partition.index.to_string(),
                        partition.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
                        partition.leader_epoch.to_string(),
                        nodes(&partition.replicas),
                        nodes(&partition.isr),
                        number(*first),
                        number(*next),
                    ]
                })
                .collect();
            let header = ["partition", "leader", "epoch", "replicas", "in sync", "first offset", "next offset"];
            output.table(&header, &[0, 1, 2, 5, 6], rows)?;
        }
    }
    if trouble.is_empty() { Ok(()) } else { Err(Failure::Failed(trouble.join("\nottla: "))) }
}

fn create(session: &Session, new: NewTopic, output: &Output) -> Result<(), Failure> {
    let name = new.name.clone();
    let outcome = session.admin().create_topics([new], false).wait().map_err(Failure::failed)?;
    let created = outcome.into_iter().next().map(|(_, outcome)| outcome);
    match created {
        Some(Ok(topic)) if output.json => output.json(&json!({
            "name": topic.name,
            "id": topic.id.to_string(),
            "partitions": topic.partitions,
            "replication_factor": topic.replication,
        })),
        Some(Ok(topic)) => output.text(&format!("created {} with {} partitions", topic.name, topic.partitions)),
        Some(Err(error)) => Err(Failure::failed(error)),
        None => Err(Failure::Failed(format!("{name}: no answer"))),
    }
}

fn delete(session: &Session, names: Vec<String>, output: &Output) -> Result<(), Failure> {
    let outcomes = session.admin().delete_topics(names).wait().map_err(Failure::failed)?;
    let mut trouble = Vec::new();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(()) if output.json => output.json(&json!({"name": name, "deleted": true}))?,
            Ok(()) => output.text(&format!("deleted {name}"))?,
            Err(error) => trouble.push(error.to_string()),
        }
    }
    if trouble.is_empty() { Ok(()) } else { Err(Failure::Failed(trouble.join("\nottla: "))) }
}
