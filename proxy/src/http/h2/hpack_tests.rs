//! RFC 7541 Appendix C's examples, and blocks that break the rules.

use super::{Decoder, Undecodable, push_field, push_status};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Undecodable> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| {
        fields.push(format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
    })?;
    Ok(fields)
}

#[test]
fn requests_without_huffman_decode_as_in_appendix_c_3() {
    let mut decoder = Decoder::new();
    let first = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    let block = bytes("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d");
    assert_eq!(decode(&mut decoder, &block).unwrap(), first);
    let second = [&first[..], &["cache-control: no-cache"]].concat();
    assert_eq!(decode(&mut decoder, &bytes("8286 84be 5808 6e6f 2d63 6163 6865")).unwrap(), second);
    let third = [":method: GET", ":scheme: https", ":path: /index.html", first[3], "custom-key: custom-value"];
    let block = bytes("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65");
    assert_eq!(decode(&mut decoder, &block).unwrap(), third);
    assert_eq!(decoder.size, 164);
}

#[test]
fn requests_with_huffman_decode_as_in_appendix_c_4() {
    let mut decoder = Decoder::new();
    let first = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    assert_eq!(decode(&mut decoder, &bytes("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")).unwrap(), first);
    let second = [&first[..], &["cache-control: no-cache"]].concat();
    assert_eq!(decode(&mut decoder, &bytes("8286 84be 5886 a8eb 1064 9cbf")).unwrap(), second);
    let third = [":method: GET", ":scheme: https", ":path: /index.html", first[3], "custom-key: custom-value"];
    let block = bytes("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
    assert_eq!(decode(&mut decoder, &block).unwrap(), third);
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    let mut block = Vec::new();
    push_status(&mut block, 200);
    push_status(&mut block, 503);
    let long = "v".repeat(70_000);
    let fields = [("server", "weir"), ("content-type", "text/plain"), ("x-own", ""), ("etag", long.as_str())];
    for (name, value) in fields {
        push_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    let mut expected = vec![":status: 200".to_owned(), ":status: 503".to_owned()];
    expected.extend(fields.map(|(name, value)| format!("{name}: {value}")));
    assert_eq!(decode(&mut Decoder::new(), &block).unwrap(), expected);
}

#[test]
fn entries_are_evicted_when_the_table_is_made_smaller() {
    let mut decoder = Decoder::new();
    let _ = decode(&mut decoder, &bytes("4001 6101 62")).unwrap();
    assert_eq!(decode(&mut decoder, &bytes("be")).unwrap(), ["a: b"]);
    assert_eq!(decode(&mut decoder, &bytes("20 be")), Err(Undecodable));
}

#[test]
fn broken_blocks_are_refused() {
    let cases = [
        ("index 0", "80"),
        ("an index beyond both tables", "be"),
        ("a string longer than the block", "0001"),
        ("an integer without end", "ffffffffffffffffff01"),
        ("a table larger than announced", "3fe2 1f"),
        ("a table's size after a header", "82 20"),
        ("Huffman's end of string", "0001 6184 ffff ffff"),
        ("Huffman padding of zeros", "0001 6181 00"),
        ("Huffman padding longer than a byte", "0001 6182 1fff"),
    ];
    for (what, hex) in cases {
        assert_eq!(decode(&mut Decoder::new(), &bytes(hex)), Err(Undecodable), "{what}");
    }
}
