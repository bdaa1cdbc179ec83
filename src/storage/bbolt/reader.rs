//! Reading a database, page by page.

use super::{
    BRANCH, BUCKET_BYTES, BboltError, IS_BUCKET, ITEM_BYTES, LEAF, MAGIC, META_BYTES,
    PAGE_HEADER_BYTES, VERSION, fnv1a, u16_at, u32_at, u64_at,
};
use crate::env::disk::File;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// The page sizes that occur: those of the processors that etcd runs on.
const PAGE_SIZES: [u64; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];
/// A tree this deep would hold more than any disk.
const DEPTH_MAX: usize = 64;

/// An open database.
pub struct Database {
    file: Arc<dyn File>,
    meta: Meta,
}

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    page_bytes: u64,
    root: u64,
    /// All pages lie below this one.
    pages: u64,
    transaction: u64,
}

/// One bucket of a database.
#[derive(Clone, Debug)]
pub struct Bucket {
    root: u64,
    inline: Option<Bytes>,
}

/// A key with its value.
pub type Item = (Bytes, Bytes);

impl Database {
    /// Opens the database that the first `bytes` of a file hold.
    ///
    /// # Errors
    /// When neither meta is valid, or the file is shorter than the one in force says.
    pub fn open(file: Arc<dyn File>, bytes: u64) -> Result<Database, BboltError> {
        let meta = newest_meta(&*file, bytes)?;
        let promised = meta.pages.saturating_mul(meta.page_bytes);
        if bytes < promised {
            return Err(BboltError::Truncated { bytes, promised });
        }
        Ok(Database { file, meta })
    }

    /// The bytes that the pages take, as etcd reports the size of a database.
    pub fn size_bytes(&self) -> u64 {
        self.meta.pages * self.meta.page_bytes
    }

    /// All buckets, in the order of their names.
    pub fn buckets(&self) -> Result<Vec<(Bytes, Bucket)>, BboltError> {
        let root = Bucket { root: self.meta.root, inline: None };
        let mut buckets = Vec::new();
        for element in self.elements(&root) {
            let element = element?;
            if !element.is_bucket {
                return Err(BboltError::damaged(element.page, "an item stands among the buckets"));
            }
            let value = element.value;
            if value.len() < BUCKET_BYTES {
                return Err(BboltError::damaged(element.page, "a bucket's header is cut off"));
            }
            let root = u64_at(&value, 0);
            let inline = (root == 0).then(|| value.slice(BUCKET_BYTES..));
            buckets.push((element.key, Bucket { root, inline }));
        }
        Ok(buckets)
    }

    /// The items of a bucket, in the order of their keys. The iterator ends at the first error.
    pub fn items(&self, bucket: &Bucket) -> impl Iterator<Item = Result<Item, BboltError>> + '_ {
        self.elements(bucket).map(|element| {
            let element = element?;
            if element.is_bucket {
                return Err(BboltError::damaged(element.page, "a bucket stands among the items"));
            }
            Ok((element.key, element.value))
        })
    }

    fn elements(&self, bucket: &Bucket) -> Elements<'_> {
        let start = match &bucket.inline {
            Some(inline) => Start::Inline(inline.clone()),
            None => Start::Page(bucket.root),
        };
        Elements { database: self, start: Some(start), stack: Vec::new(), visited: 0, last: None }
    }

    /// Reads a page with those that it flows over into.
    fn page(&self, id: u64) -> Result<Page, BboltError> {
        let page_bytes = self.meta.page_bytes;
        if id < 2 || id >= self.meta.pages {
            let what = format!("it is pointed at, and pages are 2 to {}", self.meta.pages - 1);
            return Err(BboltError::damaged(id, what));
        }
        let mut header = [0; PAGE_HEADER_BYTES];
        self.file.read_at(id * page_bytes, &mut header)?;
        let (found, overflow) = (u64_at(&header, 0), u64::from(u32_at(&header, 12)));
        if found != id {
            return Err(BboltError::damaged(id, format!("its header is that of page {found}")));
        }
        if overflow >= self.meta.pages - id {
            return Err(BboltError::damaged(id, "it reaches beyond the last page"));
        }
        let length = usize::try_from((overflow + 1) * page_bytes).expect("a page fits memory");
        let mut bytes = BytesMut::zeroed(length);
        self.file.read_at(id * page_bytes, &mut bytes)?;
        Page::parse(id, bytes.freeze())
    }
}

fn newest_meta(file: &dyn File, bytes: u64) -> Result<Meta, BboltError> {
    let first = read_meta(file, bytes, 0)?;
    let mut why = match &first {
        Ok(_) => String::new(),
        Err(why) => why.clone(),
    };
    let mut newest = first.ok();
    // Where the second one stands is what the first says, or has to be tried.
    let sizes: Vec<u64> = newest.map_or(PAGE_SIZES.to_vec(), |meta| vec![meta.page_bytes]);
    for size in sizes {
        if let Ok(second) = read_meta(file, bytes, size)?
            && second.page_bytes == size
            && newest.is_none_or(|first| first.transaction < second.transaction)
        {
            newest = Some(second);
        }
    }
    if bytes == 0 {
        why = "the file is empty".to_string();
    }
    newest.ok_or(BboltError::Foreign(why))
}

/// Reads the meta page at `offset`; the inner error says what is wrong with it.
fn read_meta(file: &dyn File, bytes: u64, offset: u64) -> Result<Result<Meta, String>, BboltError> {
    const LENGTH: usize = PAGE_HEADER_BYTES + META_BYTES;
    if bytes < offset + LENGTH as u64 {
        return Ok(Err("it is too short for a meta page".to_string()));
    }
    let mut page = [0; LENGTH];
    file.read_at(offset, &mut page)?;
    Ok(parse_meta(&page[PAGE_HEADER_BYTES..]))
}

fn parse_meta(meta: &[u8]) -> Result<Meta, String> {
    let (magic, version) = (u32_at(meta, 0), u32_at(meta, 4));
    if magic != MAGIC {
        return Err(format!("it begins with the magic {magic:#x} in the place of {MAGIC:#x}"));
    }
    if version != VERSION {
        return Err(format!("it has version {version}, and this program reads {VERSION}"));
    }
    if u64_at(meta, 56) != fnv1a(&meta[..56]) {
        return Err("the checksum of its meta page does not match".to_string());
    }
    let page_bytes = u64::from(u32_at(meta, 8));
    if !PAGE_SIZES.contains(&page_bytes) {
        return Err(format!("its pages have {page_bytes} bytes"));
    }
    let (root, pages, transaction) = (u64_at(meta, 16), u64_at(meta, 40), u64_at(meta, 48));
    if pages < 3 {
        return Err(format!("its meta page counts {pages} pages"));
    }
    Ok(Meta { page_bytes, root, pages, transaction })
}

/// A leaf or a branch in memory.
struct Page {
    id: u64,
    bytes: Bytes,
    is_leaf: bool,
    count: usize,
}

/// A leaf's item.
struct Element {
    page: u64,
    is_bucket: bool,
    key: Bytes,
    value: Bytes,
}

impl Page {
    fn parse(id: u64, bytes: Bytes) -> Result<Page, BboltError> {
        if bytes.len() < PAGE_HEADER_BYTES {
            return Err(BboltError::damaged(id, "an inline page is cut off"));
        }
        let (flags, count) = (u16_at(&bytes, 8), usize::from(u16_at(&bytes, 10)));
        let is_leaf = match flags {
            LEAF => true,
            BRANCH => false,
            _ => {
                let what = format!("it has flags {flags:#x} and is neither a branch nor a leaf");
                return Err(BboltError::damaged(id, what));
            }
        };
        if PAGE_HEADER_BYTES + count * ITEM_BYTES > bytes.len() {
            return Err(BboltError::damaged(id, format!("it is too short for {count} items")));
        }
        if !is_leaf && count == 0 {
            return Err(BboltError::damaged(id, "a branch without a child"));
        }
        Ok(Page { id, bytes, is_leaf, count })
    }

    fn leaf_item(&self, index: usize) -> Result<Element, BboltError> {
        let at = PAGE_HEADER_BYTES + index * ITEM_BYTES;
        let word = |n: usize| u32_at(&self.bytes, at + 4 * n) as usize;
        let (flags, position, key, value) = (word(0), word(1), word(2), word(3));
        let key_at = at + position;
        let key = self.slice(key_at, key)?;
        let value = self.slice(key_at + key.len(), value)?;
        let is_bucket = flags as u32 & IS_BUCKET != 0;
        Ok(Element { page: self.id, is_bucket, key, value })
    }

    fn child(&self, index: usize) -> Result<u64, BboltError> {
        let at = PAGE_HEADER_BYTES + index * ITEM_BYTES;
        let (position, key) = (u32_at(&self.bytes, at), u32_at(&self.bytes, at + 4));
        self.slice(at + position as usize, key as usize)?;
        Ok(u64_at(&self.bytes, at + 8))
    }

    fn slice(&self, start: usize, length: usize) -> Result<Bytes, BboltError> {
        match start.checked_add(length) {
            Some(end) if end <= self.bytes.len() => Ok(self.bytes.slice(start..end)),
            _ => Err(BboltError::damaged(self.id, "an item reaches beyond its page")),
        }
    }
}

enum Start {
    Page(u64),
    Inline(Bytes),
}

/// Walks a tree from left to right.
///
/// Invariant: `stack` is the way from the root to the next item; keys ascend over all items.
struct Elements<'a> {
    database: &'a Database,
    start: Option<Start>,
    stack: Vec<(Page, usize)>,
    /// Pages read so far: a damaged tree could lead round in circles.
    visited: u64,
    last: Option<Bytes>,
}

impl Elements<'_> {
    fn read(&mut self) -> Result<Option<Element>, BboltError> {
        match self.start.take() {
            Some(Start::Page(root)) => self.descend(root)?,
            Some(Start::Inline(bytes)) => {
                let page = Page::parse(0, bytes)?;
                if !page.is_leaf {
                    return Err(BboltError::damaged(0, "an inline page is no leaf"));
                }
                self.stack.push((page, 0));
            }
            None => {}
        }
        loop {
            let Some((page, next)) = self.stack.last_mut() else { return Ok(None) };
            if *next == page.count {
                self.stack.pop();
                continue;
            }
            let index = *next;
            *next += 1;
            if page.is_leaf {
                let element = page.leaf_item(index)?;
                return self.in_order(element).map(Some);
            }
            let child = page.child(index)?;
            self.descend(child)?;
        }
    }

    fn descend(&mut self, id: u64) -> Result<(), BboltError> {
        self.visited += 1;
        if self.stack.len() >= DEPTH_MAX || self.visited > self.database.meta.pages {
            return Err(BboltError::damaged(id, "the tree leads round in circles"));
        }
        self.stack.push((self.database.page(id)?, 0));
        Ok(())
    }

    fn in_order(&mut self, element: Element) -> Result<Element, BboltError> {
        if self.last.as_ref().is_some_and(|last| *last >= element.key) {
            return Err(BboltError::damaged(element.page, "its keys do not ascend"));
        }
        self.last = Some(element.key.clone());
        Ok(element)
    }
}

impl Iterator for Elements<'_> {
    type Item = Result<Element, BboltError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.stack.clear();
        }
        read.transpose()
    }
}
