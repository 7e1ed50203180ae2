//! Writes files and computes their SHA-256 on the way.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Returns lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file and returns the SHA-256 of its contents, in hexadecimal.
pub fn summed(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<Summing>) -> io::Result<()>,
) -> io::Result<String> {
    let summing = Summing { file: File::create(path)?, sum: Sha256::new() };
    let mut out = BufWriter::with_capacity(1 << 16, summing);
    fill(&mut out)?;
    let Summing { sum, .. } = out.into_inner()?;
    Ok(hex(&sum.finalize()))
}

/// A file that computes the SHA-256 of what is written into it.
pub struct Summing {
    file: File,
    sum: Sha256,
}

impl Write for Summing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
