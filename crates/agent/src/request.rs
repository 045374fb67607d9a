//! What a caller asks an agent to synchronize.

use std::fmt;

use backstop_core::{
    BlockSource, Consistency, Document, Error, ExtentSet, PointId, Provenance, Result, SnapshotId,
    SourceName, StreamName, Timestamp,
};

/// What is known of the changes of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Nothing: everything is sent, or compared if there is a replica.
    Unknown,
    /// All bytes that may differ from `base` lie in `extents`. If the
    /// replica's head is another point, everything is compared.
    Since {
        /// A recovery point of this source.
        base: PointId,
        /// What may have changed since; more than changed is right too. Of an
        /// image that was resized since, everything is compared.
        extents: ExtentSet,
    },
}

/// One image of a request.
#[derive(Clone)]
pub(crate) struct StreamRequest<'a> {
    pub(crate) name: StreamName,
    pub(crate) image: &'a dyn BlockSource,
    pub(crate) changes: Changes,
}

/// One data source to synchronize: its images, all of one snapshot, and what
/// is known of that.
#[derive(Clone)]
pub struct Request<'a> {
    pub(crate) source: SourceName,
    pub(crate) streams: Vec<StreamRequest<'a>>,
    pub(crate) snapshot: Option<SnapshotId>,
    pub(crate) consistency: Consistency,
    pub(crate) snapshot_time: Option<Timestamp>,
    pub(crate) provenance: Provenance,
    pub(crate) documents: Vec<Document>,
}

impl<'a> Request<'a> {
    /// A request for a source without images yet, crash-consistent.
    pub fn new(source: SourceName) -> Self {
        Self {
            source,
            streams: Vec::new(),
            snapshot: None,
            consistency: Consistency::Crash,
            snapshot_time: None,
            provenance: Provenance::new(),
            documents: Vec::new(),
        }
    }

    /// Adds an image. If any image's changes are unknown, all are compared.
    pub fn with_stream(
        mut self,
        name: StreamName,
        image: &'a dyn BlockSource,
        changes: Changes,
    ) -> Self {
        self.streams.push(StreamRequest {
            name,
            image,
            changes,
        });
        self
    }

    /// Names the snapshot that the images hold, so that an interrupted
    /// synchronization of it is continued. Two states of a source must never
    /// have the same id. Without one, a random id is taken and every
    /// synchronization starts over.
    pub fn with_snapshot(mut self, snapshot: SnapshotId) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// Says what an application may expect of the snapshot.
    pub fn with_consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Says when the snapshot was taken, by this host's clock.
    pub fn with_snapshot_time(mut self, time: Timestamp) -> Self {
        self.snapshot_time = Some(time);
        self
    }

    /// Adds a free fact to the recovery point.
    pub fn with_provenance(mut self, name: impl Into<String>, fact: impl Into<String>) -> Self {
        self.provenance.insert(name.into(), fact.into());
        self
    }

    /// Adds a document to keep with the recovery point.
    pub fn with_document(mut self, document: Document) -> Self {
        self.documents.push(document);
        self
    }

    /// Brings the images into the order of their names and checks that they
    /// fit together; gives the base that all changes refer to.
    pub(crate) fn settle(&mut self) -> Result<Option<PointId>> {
        let source = &self.source;
        self.streams.sort_by(|a, b| a.name.cmp(&b.name));
        if self.streams.is_empty() {
            let sentence = format!("source {source} has no image to protect");
            return Err(Error::invalid_input(sentence));
        }
        for pair in self.streams.windows(2) {
            if pair[0].name == pair[1].name {
                let sentence = format!("source {source} has two images named {}", pair[0].name);
                return Err(Error::invalid_input(sentence));
            }
        }
        let mut bases = Vec::new();
        for stream in &self.streams {
            let length = stream.image.geometry().length;
            match &stream.changes {
                Changes::Unknown => bases.push(None),
                Changes::Since { base, extents } => {
                    if let Some(outside) = extents.iter().find(|e| e.end().0 > length.0) {
                        return Err(Error::invalid_input(format!(
                            "changed extent {outside} lies outside image {} of source {source}, which has {length} bytes",
                            stream.name
                        )));
                    }
                    bases.push(Some(*base));
                }
            }
        }
        if bases.contains(&None) {
            return Ok(None);
        }
        if bases.windows(2).any(|pair| pair[0] != pair[1]) {
            let sentence =
                format!("the images of source {source} name changes since different points");
            return Err(Error::invalid_input(sentence));
        }
        Ok(bases[0])
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.streams.iter().map(|stream| &stream.name);
        f.debug_struct("Request")
            .field("source", &self.source)
            .field("streams", &streams.collect::<Vec<_>>())
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}
