//! What is said of sources and recovery points, as JSON like
//! [`control`](super::control).

use backstop_core::{
    ByteCount, Error, Geometry, PointId, RecoveryPoint, Result, SourceName, SourceStatus,
};
use serde::{Deserialize, Serialize};

/// A page of a list ends when it has so many bytes.
const PAGE_LENGTH: usize = 1 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SourcesQuestion {
    /// Those behind this one are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<SourceName>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PointsQuestion {
    pub(crate) source: SourceName,
    /// Those with a larger sequence are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<u64>,
}

/// A part of a list that may be longer than a message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// There are others behind these.
    #[serde(default)]
    pub(crate) more: bool,
}

pub(crate) type Sources = Page<SourceStatus>;
pub(crate) type Points = Page<RecoveryPoint>;

impl<T: Serialize> Page<T> {
    /// The first items, at least one if there is one.
    pub(crate) fn first(all: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut items = Vec::new();
        let mut length = 0;
        for item in all {
            if length >= PAGE_LENGTH {
                return Ok(Self { items, more: true });
            }
            length += super::control::encode(&item)?.len();
            items.push(item);
        }
        Ok(Self { items, more: false })
    }
}

/// Asks for a point, or to open it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PointQuestion {
    pub(crate) point: PointId,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PointAnswer {
    pub(crate) point: RecoveryPoint,
}

/// A point that was opened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// What later calls on this connection name it by.
    pub(crate) image: u64,
    pub(crate) point: RecoveryPoint,
    /// Of each of its images.
    shapes: Vec<Shape>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Shape {
    length: ByteCount,
    block: ByteCount,
}

impl Opened {
    pub(crate) fn new(image: u64, point: RecoveryPoint, shapes: Vec<Geometry>) -> Self {
        let shapes = shapes.into_iter();
        Self {
            image,
            point,
            shapes: shapes
                .map(|Geometry { length, block }| Shape { length, block })
                .collect(),
        }
    }

    /// Of each of its images.
    pub(crate) fn geometries(&self) -> Result<Vec<Geometry>> {
        if self.shapes.len() != self.point.streams.len() {
            return Err(Error::invalid_input(format!(
                "the server tells {} shapes of the {} images of recovery point {}",
                self.shapes.len(),
                self.point.streams.len(),
                self.point.id
            )));
        }
        let shapes = self.shapes.iter();
        Ok(shapes
            .map(|shape| Geometry {
                length: shape.length,
                block: shape.block,
            })
            .collect())
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Close {
    pub(crate) image: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Expire {
    pub(crate) points: Vec<PointId>,
}

#[cfg(test)]
mod tests {
    use super::super::control::{decode, encode};
    use super::*;

    #[test]
    fn a_list_goes_in_pages() {
        let name = |number: usize| format!("{number:0>200}");
        let all: Vec<String> = (0..20_000).map(name).collect();
        let mut back: Vec<String> = Vec::new();
        let mut pages = 0;
        loop {
            let rest = all.iter().skip(back.len()).cloned();
            let message = encode(&Page::first(rest).unwrap()).unwrap();
            assert!(message.len() < PAGE_LENGTH + 10_000);
            let page: Page<String> = decode("a page", &message).unwrap();
            assert!(!page.items.is_empty());
            back.extend(page.items);
            pages += 1;
            if !page.more {
                break;
            }
        }
        assert_eq!(pages, 4);
        assert!(back == all);
        // One that is longer than a page is told all the same.
        let long = vec!["x".repeat(2 * PAGE_LENGTH); 2];
        let page = Page::first(long).unwrap();
        assert_eq!((page.items.len(), page.more), (1, true));
        let none = Page::first(Vec::<String>::new()).unwrap();
        assert_eq!((none.items.len(), none.more), (0, false));
    }

    #[test]
    fn what_is_added_later_is_passed_over() {
        let asked: SourcesQuestion = decode("a question", br#"{"later":1}"#).unwrap();
        assert!(asked.after.is_none());
        let page: Sources = decode(
            "sources",
            br#"{"items":[{"source":"a","state":{"state":"pending"},"later":1}]}"#,
        )
        .unwrap();
        assert_eq!((page.items[0].source.as_str(), page.more), ("a", false));
    }
}
