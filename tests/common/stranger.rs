//! Something else than a broker, on a port of the kernel's choice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use ottla::wire::messages::ApiVersionsResponse;
use ottla::wire::messages::api_versions::response::ApiVersion;
use ottla::wire::{ApiKey, frame};

/// A listener that counts who connects and answers each request with what `answer` makes of it; nothing ends the connection.
pub struct Stranger {
    pub address: SocketAddr,
    accepted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stranger {
    pub fn new(answer: fn(&[u8]) -> Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (Arc::clone(&accepted), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let Ok(mut stream) = stream else { continue };
                open.push(thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(1..) = stream.read(&mut bytes) {
                        let answer = answer(&bytes);
                        if answer.is_empty() || stream.write_all(&answer).is_err() {
                            return;
                        }
                    }
                }));
            }
            drop(listener);
            open.into_iter().for_each(|each| drop(each.join()));
        });
        Self { address, accepted, stop, thread: Some(thread) }
    }

    /// How many connected so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(std::net::TcpStream::connect(self.address));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The answer of a broker to ApiVersions, `other` to anything else.
pub fn handshake_or(bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let short = |at: usize| i16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
    if short(4) != ApiKey::ApiVersions as i16 {
        return other.to_vec();
    }
    let all = |api: ApiKey| ApiVersion {
        api_key: api as i16,
        min_version: api.versions().min,
        max_version: api.versions().max,
        ..Default::default()
    };
    let answer =
        ApiVersionsResponse { api_keys: vec![all(ApiKey::ApiVersions), all(ApiKey::Metadata)], ..Default::default() };
    let mut out = Vec::new();
    let correlation = i32::from_be_bytes(bytes[8..12].try_into().unwrap());
    frame::encode_response(short(6), correlation, &answer, &mut out).unwrap();
    out
}
