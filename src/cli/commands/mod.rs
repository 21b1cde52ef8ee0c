//! One file per command.

pub mod audit;
pub mod batch;
pub mod bench;
pub mod broker;
pub mod config;
pub mod consume;
pub mod doctor;
pub mod produce;
pub mod proxy;
pub mod topics;
pub mod wire;
