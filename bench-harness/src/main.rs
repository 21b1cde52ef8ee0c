//! Runs Ottla and its peers over the same bytes, interleaved, and reports figures as ratios.
fn main() {
    println!("bench-harness: scenarios arrive with the producer");
}
