//! Compresses requests for the disk.

use bytes::Bytes;
use lz4_flex::block::{compress_prepend_size, decompress, uncompressed_size};

/// Starts a compressed request. No protobuf message starts with it, because there is no field 0. A
/// request without it was written uncompressed by an earlier version.
const PACKED: u8 = 0;

/// Compresses a request.
pub(crate) fn packed(request: &[u8]) -> Vec<u8> {
    let mut packed = vec![PACKED];
    packed.append(&mut compress_prepend_size(request));
    packed
}

/// Decompresses a request.
///
/// # Errors
/// Returns a description of the damage. A length that no text of this size can expand to is refused
/// before memory is allocated for it.
pub(crate) fn unpacked(stored: &[u8]) -> Result<Bytes, String> {
    const MAX_RATIO: usize = 255;
    let Some((&PACKED, packed)) = stored.split_first() else {
        return Ok(Bytes::copy_from_slice(stored));
    };
    let (len, text) = uncompressed_size(packed).map_err(|error| error.to_string())?;
    if len > text.len().saturating_mul(MAX_RATIO) {
        return Err(format!("{} bytes cannot be a request of {len}", text.len()));
    }
    let request = decompress(text, len).map_err(|error| error.to_string())?;
    match request.len() == len {
        true => Ok(request.into()),
        false => Err(format!("a request of {len} bytes has {} left", request.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bytes_round_trip_and_damage_is_detected() {
        for request in [&b""[..], b"\x0a\x00", &[10; 100_000]] {
            assert_eq!(unpacked(&packed(request)).as_deref(), Ok(request));
        }
        assert_eq!(unpacked(b"\x0a\x03abc").as_deref(), Ok(&b"\x0a\x03abc"[..]), "as it was once");
        let mut damaged = packed(&[10; 100_000]);
        damaged[1] = damaged[1].wrapping_add(1);
        assert!(unpacked(&damaged).is_err(), "another length");
        damaged[4] = 0x7f;
        assert!(unpacked(&damaged).is_err(), "a length beyond reason");
        let whole = packed(b"one two three four five six seven");
        for end in 1..whole.len() {
            assert!(unpacked(&whole[..end]).is_err(), "{end}");
        }
    }
}
