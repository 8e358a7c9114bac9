//! Fuzzing by mutation from a corpus that is replayed first: a bounded number of inputs, or, with `WEIR_FUZZ_SECONDS=600`, for so
//! long, after which what was treated in a new way stands in the corpus. Must not know what is fuzzed.

use std::collections::HashSet;
use std::fmt::Write;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const CORPUS_MAX: usize = 400;

#[derive(Debug)]
pub struct Fuzz<'a> {
    /// One input a line, in hexadecimal.
    pub corpus: PathBuf,
    /// Octets at which decisions change.
    pub telling: &'a [u8],
    /// How many are tried when no time is given.
    pub inputs: u32,
    pub input_bytes_max: usize,
}

/// xorshift, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

impl Fuzz<'_> {
    /// Replays the corpus, then mutates it. `check` fails on a finding and tells how the input was treated: what is treated
    /// in a new way is mutated further.
    pub fn run<T: Hash>(&self, check: impl Fn(&[u8]) -> T) {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let mut seen = HashSet::new();
        let mut inputs = self.read();
        inputs.retain(|input| seen.insert(hasher.hash_one(check(input))));
        let seconds = std::env::var("WEIR_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let seed = if seconds.is_some() { u64::from(std::process::id()) } else { 1 };
        let (mut random, mut tried) = (Random(0x9e37_79b9_7f4a_7c15 ^ seed), 0);
        while end.map_or(tried < self.inputs, |end| tried % 1024 != 0 || Instant::now() < end) {
            tried = tried.wrapping_add(1);
            let input = self.mutated(&mut random, &inputs);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&input)));
            let treated = outcome.unwrap_or_else(|_| panic!("{}: finding with {input:02x?}", self.corpus.display()));
            if inputs.len() < CORPUS_MAX && seen.insert(hasher.hash_one(treated)) {
                inputs.push(input);
            }
        }
        if seconds.is_some() {
            self.keep(&mut inputs);
            println!("{}: {tried} inputs, corpus {}", self.corpus.display(), inputs.len());
        }
    }

    fn mutated(&self, random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
        let telling = |random: &mut Random| self.telling[random.below(self.telling.len())];
        let mut bytes = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            match random.below(8) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
                1 if !bytes.is_empty() => bytes[at] = telling(random),
                2 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
                3 => bytes.insert(at, telling(random)),
                4 if !bytes.is_empty() => drop(bytes.drain(at..(at + 1 + random.below(12)).min(bytes.len()))),
                5 => bytes.truncate(at),
                6 => bytes.extend_from_within(at..(at + random.below(40)).min(bytes.len())),
                _ => {
                    let other = &corpus[random.below(corpus.len())];
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[random.below(other.len())..]);
                }
            }
        }
        bytes.truncate(self.input_bytes_max);
        bytes
    }

    fn read(&self) -> Vec<Vec<u8>> {
        let text = std::fs::read_to_string(&self.corpus).unwrap();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        text.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
    }

    fn keep(&self, inputs: &mut [Vec<u8>]) {
        inputs.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
        let mut text = String::new();
        for input in inputs {
            input.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
            text.push('\n');
        }
        std::fs::write(&self.corpus, text).unwrap();
    }
}
