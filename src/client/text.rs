//! What can be reranked: anything that has a text.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use crate::protocol::Document;

/// A candidate: something with a text to be held against the query. It is given back as it came.
///
/// Strings are texts themselves; a pair's text is its second half (`Vec<(Id, String)>`); for a type of your own,
/// implement this or give [`Reranker::rerank_by`](super::Reranker::rerank_by) a closure.
pub trait Text {
    /// The text that is scored. May be empty.
    fn text(&self) -> &str;
}

impl Text for str {
    fn text(&self) -> &str {
        self
    }
}

impl Text for String {
    fn text(&self) -> &str {
        self
    }
}

impl Text for Cow<'_, str> {
    fn text(&self) -> &str {
        self
    }
}

impl Text for Document {
    fn text(&self) -> &str {
        &self.text
    }
}

impl<T: Text + ?Sized> Text for &T {
    fn text(&self) -> &str {
        (**self).text()
    }
}

impl<T: Text + ?Sized> Text for Box<T> {
    fn text(&self) -> &str {
        (**self).text()
    }
}

impl<T: Text + ?Sized> Text for Rc<T> {
    fn text(&self) -> &str {
        (**self).text()
    }
}

impl<T: Text + ?Sized> Text for Arc<T> {
    fn text(&self) -> &str {
        (**self).text()
    }
}

impl<K, T: Text> Text for (K, T) {
    fn text(&self) -> &str {
        self.1.text()
    }
}
