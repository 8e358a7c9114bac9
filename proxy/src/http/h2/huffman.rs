//! HPACK's Huffman code (RFC 7541 Appendix B). It is canonical, so the lengths of its 257 codes are all there is to
//! store. Must not know headers.

const SYMBOLS: usize = 257;
const LONGEST_BITS: usize = 30;

/// Code lengths in bits, by symbol; the last one ends a string and is never sent.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15,
    6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23,
    23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22,
    22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26,
    27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27,
    26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

struct Tables {
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
    /// Of each length: its first code, where that one's symbol is, and how many there are.
    first: [(u32, u16, u16); LONGEST_BITS + 1],
    /// By the next byte of input: a symbol and the length of its code, or 0 for a longer one.
    short: [(u8, u8); 256],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables { symbols: [0; SYMBOLS], first: [(0, 0, 0); LONGEST_BITS + 1], short: [(0, 0); 256] };
    let (mut code, mut at, mut bits) = (0u32, 0, 1);
    while bits <= LONGEST_BITS {
        code <<= 1;
        let (begin, first) = (at, code);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == bits {
                tables.symbols[at] = symbol as u16;
                if bits <= 8 {
                    let mut fill = 0;
                    while fill < 1 << (8 - bits) {
                        tables.short[((code << (8 - bits)) + fill) as usize] = (symbol as u8, bits as u8);
                        fill += 1;
                    }
                }
                code += 1;
                at += 1;
            }
            symbol += 1;
        }
        tables.first[bits] = (first, begin as u16, (at - begin) as u16);
        bits += 1;
    }
    tables
}

/// Appends what `coded` stands for: false if it isn't a valid coding, padding included.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> bool {
    // The input's next bits are kept at the top.
    let (mut bits, mut count) = (0u64, 0usize);
    let mut input = coded.iter();
    loop {
        while count <= 56
            && let Some(byte) = input.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return true;
        }
        let Some((symbol, length)) = next(bits).filter(|(_, length)| *length <= count) else {
            // Less than a byte of ones is padding.
            return count < 8 && bits >> (64 - count) == (1 << count) - 1;
        };
        out.push(symbol);
        bits <<= length;
        count -= length;
    }
}

fn next(bits: u64) -> Option<(u8, usize)> {
    let (symbol, length) = *TABLES.short.get((bits >> 56) as usize)?;
    if length > 0 {
        return Some((symbol, usize::from(length)));
    }
    for length in 9..=LONGEST_BITS {
        let code = (bits >> (64 - length)) as u32;
        let (first, at, count) = *TABLES.first.get(length)?;
        if code >= first && code - first < u32::from(count) {
            let symbol = *TABLES.symbols.get(usize::from(at) + (code - first) as usize)?;
            return u8::try_from(symbol).ok().map(|symbol| (symbol, length));
        }
    }
    None
}
