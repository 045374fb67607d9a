//! The identity of a recovery point, made from what it is the point of.

use backstop_core::{ChunkDigest, PointId, SourceName, SynchronizationId};

/// What the bytes that are hashed begin with, so that they can't be a chunk's.
const DOMAIN: &[u8] = b"backstop point v0";

/// The identity of the point that a synchronization of a source becomes.
///
/// The first 16 bytes of the SHA-256 digest of the domain, the length of the
/// source's name as 4 bytes (least first), the name, and the synchronization's
/// 16 bytes: a commit that is repeated, even by another server over the same
/// vault, gives the same point.
pub(crate) fn point_id(source: &SourceName, synchronization: SynchronizationId) -> PointId {
    let name = source.as_str().as_bytes();
    // A name is at most 255 bytes long.
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(DOMAIN.len() + 4 + name.len() + 16);
    bytes.extend_from_slice(DOMAIN);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&synchronization.to_bytes());
    let digest = ChunkDigest::of(&bytes);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    PointId::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_fixed_and_differ() {
        let id = |source: &str, byte| {
            let source = SourceName::new(source).unwrap();
            point_id(&source, SynchronizationId::from_bytes([byte; 16]))
        };
        // Part of the format: a change here orphans repeated commits.
        assert_eq!(id("vm", 7).to_string(), "286825e42d202f1680284ec268a4da45");
        assert_ne!(id("vm", 7), id("vm", 8));
        assert_ne!(id("vm", 7), id("vn", 7));
    }
}
