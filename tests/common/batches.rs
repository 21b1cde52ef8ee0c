//! Record batches as Kafka's own Java classes wrote them: `tests/data/batches.txt`, by `ci/golden/Batches.java`.

/// Every batch with what it is called: format, codec, kind of timestamps or of batch.
pub fn batches() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    include_str!("../data/batches.txt").lines().map(move |line| {
        let (name, hex) = line.split_once('\t').unwrap();
        (name, hex.as_bytes().chunks(2).map(byte).collect())
    })
}
