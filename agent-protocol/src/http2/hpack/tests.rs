//! Against the public conformance stories, which the package `httlib-hpack` carries, and against the decoder of `loona-hpack`.

use std::{fs, path::PathBuf, process::Command};

use httlib_hpack::Encoder;
use serde_json::Value;

use super::{
    field::{Name, Room},
    *,
};
use crate::fuzzing::{Random, sessions::unhex};

type Told = Field<Box<str>>;

/// What a block says, fed in pieces.
fn decode(decoder: &mut Decoder, block: &[u8], mut piece_bytes: impl FnMut() -> usize) -> Result<Vec<Told>, Malformed> {
    let (mut told, mut rest) = (Vec::new(), block);
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(piece_bytes().clamp(1, rest.len()));
        decoder.decode(piece, &mut Scratch::default(), &mut |field| told.push(field.keep()))?;
        rest = more;
    }
    decoder.end_block()?;
    Ok(told)
}

/// What another implementation read, as it would be told here.
fn read(name: &[u8], value: &[u8]) -> Told {
    Field::read(Name::of(name), value, false, &mut Room::default()).keep()
}

#[test]
fn the_public_stories_are_read_as_written_down() {
    let mut cases = 0;
    let mut folders: Vec<_> = entries(stories()).into_iter().filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() > 10, "{folders:?}");
    for story in folders.into_iter().flat_map(entries) {
        let text = fs::read_to_string(&story).expect("a story");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        for piece_bytes in [usize::MAX, 3] {
            let mut decoder = Decoder::default();
            for case in json["cases"].as_array().expect("cases") {
                let wire = unhex(case["wire"].as_str().expect("wire"));
                let told = decode(&mut decoder, &wire, || piece_bytes);
                let headers =
                    case["headers"].as_array().expect("headers").iter().filter_map(Value::as_object).flatten();
                let expected = headers.map(|(name, value)| read(name.as_bytes(), value.as_str().unwrap().as_bytes()));
                assert_eq!(told, Ok(expected.collect()), "{} {}", story.display(), case["seqno"]);
                cases += 1;
            }
        }
    }
    println!("{cases} cases");
    assert!(cases > 10_000, "only {cases}");
}

fn entries(folder: PathBuf) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

/// Where cargo keeps the package's files.
fn stories() -> PathBuf {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    // Without the host's name it asks for packages of all platforms, which are not here.
    let arguments =
        ["metadata", "--format-version=1", "--offline", "--filter-platform", host, "--manifest-path", manifest];
    let metadata: Value = serde_json::from_str(&cargo(&arguments)).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "httlib-hpack").expect("the package");
    PathBuf::from(package["manifest_path"].as_str().expect("a path")).with_file_name("fixtures")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A connection's blocks at random, by an encoder of others, and what the decoder of still others reads in them.
struct Peer {
    random: Random,
    encoder: Encoder<'static>,
    decoder: loona_hpack::Decoder<'static>,
    size: u32,
}

const NAMES: [&str; 14] = [
    ":method",
    ":path",
    ":authority",
    ":scheme",
    ":status",
    "content-type",
    "host",
    "traceparent",
    "grpc-status",
    "grpc-timeout",
    "cookie",
    "x-a",
    "user-agent",
    "a-name-that-is-longer-than-any-that-means-something",
];
const VALUES: [&str; 13] = [
    "",
    "GET",
    "/",
    "/orders?token=x",
    "shop.test",
    "https",
    "200",
    "503",
    "application/grpc",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "13",
    "250m",
    "caf\u{e9} \u{1}~",
];

impl Peer {
    fn new(seed: u64) -> Self {
        let mut decoder = loona_hpack::Decoder::new();
        decoder.set_max_allowed_table_size(4096);
        Self { random: Random::new(seed), encoder: Encoder::with_dynamic_size(4096), decoder, size: 4096 }
    }

    fn block(&mut self, resizes: bool) -> (Vec<u8>, Vec<Told>) {
        let random = &mut self.random;
        let mut block = Vec::new();
        if resizes && random.below(8) == 0 {
            self.size = [0, 64, 300, 4096][random.below(4)];
            self.encoder.update_max_dynamic_size(self.size, &mut block).expect("a size");
        }
        for _ in 0..1 + random.below(12) {
            let name = NAMES[random.below(NAMES.len())];
            let value = match random.below(8) {
                0 => "x".repeat(random.below(300)),
                1 => random.below(1000).to_string(),
                _ => VALUES[random.below(VALUES.len())].to_owned(),
            };
            // As encoders do: what does not fit is not inserted.
            let fits = name.len() + value.len() + 32 <= self.size as usize;
            let flags = random.below(4) as u8 | [0x10, 0][random.below(2)];
            let flags = flags | [0, if fits { 4 } else { 0 }, 8][random.below(3)];
            let field = (name.as_bytes().to_vec(), value.into_bytes(), flags);
            self.encoder.encode(field, &mut block).expect("a field");
        }
        let fields = self.decoder.decode(&block).expect("a block");
        (block, fields.iter().map(|(name, value)| read(name, value)).collect())
    }
}

#[test]
fn another_decoder_reads_the_same() {
    let mut fields = 0;
    for seed in 1..300 {
        let (mut peer, mut decoder) = (Peer::new(seed), Decoder::default());
        for _ in 0..60 {
            let (block, expected) = peer.block(true);
            let told = decode(&mut decoder, &block, || 1 + peer.random.below(40));
            fields += expected.len();
            assert_eq!(told, Ok(expected), "seed {seed}: {block:02x?}");
        }
    }
    assert!(fields > 50_000, "only {fields}");
}

#[test]
fn after_blocks_that_were_not_seen_nothing_is_invented_and_what_is_added_again_is_known() {
    let (mut known, mut unresolved) = (0, 0);
    for seed in 1..300 {
        let (mut peer, mut decoder) = (Peer::new(seed), Decoder::default());
        for index in 0..60 {
            let (block, expected) = peer.block(false);
            // Late, and with a hole.
            match index {
                0..10 => continue,
                30..33 => decoder.forget(),
                _ => {
                    let told = decode(&mut decoder, &block, || usize::MAX).expect("a block");
                    assert_eq!(told.len(), expected.len());
                    for (told, expected) in told.into_iter().zip(expected) {
                        if told == Field::Unresolved {
                            unresolved += 1;
                        } else {
                            assert_eq!(told, expected, "seed {seed}, block {index}");
                            known += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(known > 5 * unresolved && unresolved > 100, "{known} known, {unresolved} not");
}

#[test]
fn a_field_that_may_not_be_in_the_table_makes_the_older_ones_unresolved() {
    let mut decoder = Decoder::default();
    let told = |decoder: &mut Decoder, block: &[u8]| decode(decoder, block, || usize::MAX).expect("a block");
    assert_eq!(told(&mut decoder, b"\x48\x03503\xbe"), [Field::Status(503), Field::Status(503)]);
    // A value of 3,000 bytes: too long to be looked at whole; by its code it decodes to between 800 and 4,800.
    let mut block = b"\x44\xff\xb9\x16".to_vec();
    block.resize(block.len() + 3000, 0x18);
    decode(&mut decoder, &block, || 100).expect("a block");
    assert_eq!(told(&mut decoder, b"\xbe\xbf"), [Field::Unresolved, Field::Unresolved]);
    assert_eq!(told(&mut decoder, b"\x48\x03503\xbe\xbf"), [Field::Status(503), Field::Status(503), Field::Unresolved]);
}

#[test]
fn bombs_cost_what_they_weigh() {
    // A large entry that is referred to 16,000 times.
    let mut decoder = Decoder::default();
    let mut bomb = b"\x44\x7f\xf1\x1d/".to_vec();
    bomb.resize(bomb.len() + 3951, b'x');
    bomb.resize(bomb.len() + 16_000, 0xbe);
    let mut fields = 0;
    decoder
        .decode(&bomb, &mut Scratch::default(), &mut |field| {
            assert!(matches!(field, Field::Path(path) if path.len() == 1024));
            fields += 1;
        })
        .expect("a block");
    assert_eq!(fields, 16_001);
    // A string of 2^28 bytes, in pieces.
    let mut decoder = Decoder::default();
    decoder.decode(b"\x40\x01x\x7f\x80\xff\xff\x7f", &mut Scratch::default(), &mut |_| {}).expect("a length");
    for _ in 0..1000 {
        decoder.decode(&[b'x'; 1000], &mut Scratch::default(), &mut |_| panic!("not complete")).expect("a piece");
    }
    assert_eq!(decoder.string.kept.len(), STRING_BYTES_MAX);
    assert_eq!(decoder.end_block(), Err(Malformed));
}

#[test]
fn what_the_rfc_forbids_is_malformed() {
    let check = |block: &[u8]| {
        let whole = decode(&mut Decoder::default(), block, || usize::MAX);
        assert_eq!(whole, Err(Malformed), "{block:02x?}");
        assert_eq!(decode(&mut Decoder::default(), block, || 1), Err(Malformed), "{block:02x?}");
    };
    check(b"\x80");
    check(b"\xff\xff\xff\xff\xff\xff");
    check(b"\x40\x81\x18\x01x");
    check(b"\x42\x82\xff\xff");
    check(b"\x42");
    check(b"\x42\x03GE");
    check(b"\x40\x01x");
}
