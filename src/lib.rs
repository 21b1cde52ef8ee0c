//! Ottla: a Kafka producer and consumer engine for Linux.
//!
//! One shard per core owns its broker connections, batch accumulators and fetch buffers and shares nothing; a control
//! thread does everything rare. `docs/ARCHITECTURE.md` follows a record through the rooms below.
//!
//! [`wire`] (Kafka's messages) and [`batch`] (record batches) are public and usable alone.

#![cfg_attr(docsrs, feature(doc_cfg))]
// A room's introduction speaks of its private parts too; it is read in the source as often as in the browser.
#![allow(rustdoc::private_intra_doc_links)]

// Floor 0: ids, time, settings, counters. Knows no Kafka API.
#[doc(hidden)]
pub mod base;
pub mod config;
#[doc(hidden)]
pub mod telemetry;

// Floor 1: bytes, messages, records.
pub mod batch;
pub mod wire;

// Floor 2: state machines | kernel, sockets, queues.
#[doc(hidden)]
pub mod mesh;
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod proto;
#[doc(hidden)]
pub mod ring;

// Floor 3: where protocol meets I/O.
#[doc(hidden)]
pub mod control;
#[doc(hidden)]
pub mod shard;

// Floor 4 and 5: what users hold.
pub mod admin;
pub mod consumer;
pub mod engine;
pub mod producer;

// Floor 6.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

#[cfg(feature = "testkit")]
pub mod testkit;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
