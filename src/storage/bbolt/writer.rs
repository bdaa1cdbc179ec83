//! Writing a database from left to right, in memory that does not grow with it.
//!
//! The metas stand at the front and name what stands behind, so a database is laid out twice: a
//! first time with the lengths of the values only, which gives the [`Plan`], and a second time
//! with the values, which gives the bytes. Both times the same items must come.

use super::{
    BRANCH, BUCKET_BYTES, IS_BUCKET, ITEM_BYTES, LEAF, MAGIC, META, META_BYTES, NO_FREELIST,
    PAGE_BYTES, PAGE_HEADER_BYTES, VERSION, fnv1a,
};
use bytes::{BufMut, Bytes, BytesMut};

/// A bucket whose items take no more than this is kept inline, as bbolt does.
const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;

/// Where the root bucket stands, and how many pages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    root: u64,
    pages: u64,
}

impl Plan {
    /// The length of the file.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

/// A value in parts, or while planning its length.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    Length(usize),
    Parts(&'a [&'a [u8]]),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Payload::Length(length) => *length,
            Payload::Parts(parts) => parts.iter().map(|part| part.len()).sum(),
        }
    }
}

/// The value of a finished bucket.
enum BucketValue {
    /// While planning.
    Length(usize),
    Bytes(Bytes),
}

/// The header of an item of a leaf, but for its position.
struct LeafItem {
    flags: u32,
    key: usize,
    value: usize,
}

/// The leaf that is being filled.
#[derive(Default)]
struct Leaf {
    items: Vec<LeafItem>,
    /// Keys and values as they will stand there; nothing while planning.
    data: Vec<u8>,
    first: Bytes,
    last: Vec<u8>,
    /// Bytes of item headers, keys and values.
    bytes: usize,
}

impl Leaf {
    fn push(&mut self, flags: u32, key: &[u8], value: Payload) {
        if self.items.is_empty() {
            self.first = Bytes::copy_from_slice(key);
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        self.items.push(LeafItem { flags, key: key.len(), value: value.len() });
        self.bytes += ITEM_BYTES + key.len() + value.len();
        if let Payload::Parts(parts) = value {
            self.data.extend_from_slice(key);
            parts.iter().for_each(|part| self.data.extend_from_slice(part));
        }
    }

    /// Empty again, with the room that it had.
    fn clear(&mut self) {
        self.items.clear();
        self.data.clear();
        self.bytes = 0;
    }
}

/// A branch that is being filled: the first key below each child, and its page.
#[derive(Default)]
struct Branch {
    children: Vec<(Bytes, u64)>,
    bytes: usize,
}

/// The tree of one bucket, of which whole pages have been written.
#[derive(Default)]
struct Tree {
    leaf: Leaf,
    /// From the ground up.
    branches: Vec<Branch>,
}

/// Lays out a database.
pub struct Writer {
    /// What is laid out, the bytes that nobody has taken; none while planning.
    out: Option<BytesMut>,
    plan: Option<Plan>,
    next_page: u64,
    /// The finished buckets: names and values. Invariant: names ascend.
    buckets: Vec<(Bytes, BucketValue)>,
    /// The bucket that is open.
    open: Option<(Bytes, Tree)>,
}

impl Writer {
    /// A writer that finds out the plan.
    pub fn planning() -> Writer {
        Writer { out: None, plan: None, next_page: 2, buckets: Vec::new(), open: None }
    }

    /// A writer that follows a plan.
    pub fn writing(plan: Plan) -> Writer {
        let mut out = BytesMut::new();
        for id in 0..2 {
            put_meta(&mut out, id, &plan);
        }
        Writer { out: Some(out), plan: Some(plan), next_page: 2, buckets: Vec::new(), open: None }
    }

    /// Begins a bucket. Buckets may come in any order.
    pub fn begin(&mut self, name: &'static str) {
        assert!(self.open.is_none(), "bucket {name} begins within another");
        self.open = Some((Bytes::from_static(name.as_bytes()), Tree::default()));
    }

    /// Adds an item to the bucket that was begun; its key is above the one before.
    pub fn push(&mut self, key: &[u8], value: Payload) {
        let (name, mut tree) = self.open.take().expect("an item is in a bucket");
        self.push_to(&mut tree, 0, key, value);
        self.open = Some((name, tree));
    }

    /// Ends the bucket that was begun.
    pub fn end(&mut self) {
        let (name, tree) = self.open.take().expect("a bucket was begun");
        let value = match self.inline(&tree) {
            Some(inline) => inline,
            None => BucketValue::Bytes(bucket_header(self.finish_tree(tree)).freeze()),
        };
        self.buckets.push((name, value));
    }

    /// Ends the database; gives its plan, which is the one it was made with.
    pub fn finish(&mut self) -> Plan {
        assert!(self.open.is_none(), "the last bucket is open");
        let mut buckets = std::mem::take(&mut self.buckets);
        buckets.sort_by(|one, other| one.0.cmp(&other.0));
        let mut tree = Tree::default();
        for (key, value) in &buckets {
            match value {
                BucketValue::Length(length) => {
                    self.push_to(&mut tree, IS_BUCKET, key, Payload::Length(*length));
                }
                BucketValue::Bytes(bytes) if self.out.is_none() => {
                    self.push_to(&mut tree, IS_BUCKET, key, Payload::Length(bytes.len()));
                }
                BucketValue::Bytes(bytes) => {
                    self.push_to(&mut tree, IS_BUCKET, key, Payload::Parts(&[&bytes[..]]));
                }
            }
        }
        let root = self.finish_tree(tree);
        let plan = Plan { root, pages: self.next_page };
        if let Some(planned) = self.plan {
            assert_eq!(plan, planned, "the items were others than those of the plan");
        }
        plan
    }

    /// Takes what is finished, in order and without gaps: whole pages, and of them as many times
    /// `piece` bytes as there are.
    pub fn take(&mut self, piece: usize) -> Bytes {
        let Some(out) = &mut self.out else { return Bytes::new() };
        let pages = piece.next_multiple_of(PAGE_BYTES);
        out.split_to(out.len() / pages * pages).freeze()
    }

    fn push_to(&mut self, tree: &mut Tree, flags: u32, key: &[u8], value: Payload) {
        if !tree.leaf.items.is_empty() {
            let last = &tree.leaf.last[..];
            assert!(last < key, "{key:?} follows {last:?}");
            let bytes = ITEM_BYTES + key.len() + value.len();
            if PAGE_HEADER_BYTES + tree.leaf.bytes + bytes > PAGE_BYTES {
                self.close_leaf(tree);
            }
        }
        tree.leaf.push(flags, key, value);
    }

    fn close_leaf(&mut self, tree: &mut Tree) {
        let leaf = &mut tree.leaf;
        let first = std::mem::take(&mut leaf.first);
        let id = self.allot(PAGE_HEADER_BYTES + leaf.bytes);
        if let Some(out) = &mut self.out {
            put_leaf(out, id, leaf);
            pad(out);
        }
        leaf.clear();
        self.add_child(&mut tree.branches, 0, first, id);
    }

    fn add_child(&mut self, branches: &mut Vec<Branch>, level: usize, key: Bytes, id: u64) {
        if level == branches.len() {
            branches.push(Branch::default());
        }
        let bytes = ITEM_BYTES + key.len();
        let branch = &branches[level];
        if branch.children.len() > 1 && PAGE_HEADER_BYTES + branch.bytes + bytes > PAGE_BYTES {
            self.close_branch(branches, level);
        }
        branches[level].children.push((key, id));
        branches[level].bytes += bytes;
    }

    fn close_branch(&mut self, branches: &mut Vec<Branch>, level: usize) {
        let branch = std::mem::take(&mut branches[level]);
        let first = branch.children[0].0.clone();
        let id = self.allot(PAGE_HEADER_BYTES + branch.bytes);
        if let Some(out) = &mut self.out {
            put_branch(out, id, &branch);
            pad(out);
        }
        self.add_child(branches, level + 1, first, id);
    }

    /// Closes all that is open; gives the page of the root.
    fn finish_tree(&mut self, mut tree: Tree) -> u64 {
        if !tree.leaf.items.is_empty() || tree.branches.is_empty() {
            self.close_leaf(&mut tree);
        }
        let mut level = 0;
        // The topmost branch with a single child needs no page: that child is the root.
        while level + 1 < tree.branches.len() || tree.branches[level].children.len() > 1 {
            if !tree.branches[level].children.is_empty() {
                self.close_branch(&mut tree.branches, level);
            }
            level += 1;
        }
        tree.branches[level].children[0].1
    }

    /// The value of a bucket that is small enough to have no page of its own.
    fn inline(&self, tree: &Tree) -> Option<BucketValue> {
        let length = PAGE_HEADER_BYTES + tree.leaf.bytes;
        if !tree.branches.is_empty() || length > INLINE_BYTES_MAX {
            return None;
        }
        if self.out.is_none() {
            return Some(BucketValue::Length(BUCKET_BYTES + length));
        }
        let mut value = bucket_header(0);
        put_leaf(&mut value, 0, &tree.leaf);
        Some(BucketValue::Bytes(value.freeze()))
    }

    /// The next page, which takes so many bytes.
    fn allot(&mut self, bytes: usize) -> u64 {
        let id = self.next_page;
        self.next_page += bytes.div_ceil(PAGE_BYTES) as u64;
        id
    }
}

fn put_page_header(out: &mut BytesMut, id: u64, flags: u16, count: usize, bytes: usize) {
    out.put_u64_le(id);
    out.put_u16_le(flags);
    out.put_u16_le(u16::try_from(count).expect("a page holds few items"));
    let overflow = bytes.div_ceil(PAGE_BYTES) - 1;
    out.put_u32_le(u32::try_from(overflow).expect("an item is shorter than 4 GiB"));
}

fn put_meta(out: &mut BytesMut, id: u64, plan: &Plan) {
    put_page_header(out, id, META, 0, PAGE_BYTES);
    let start = out.len();
    out.put_u32_le(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(PAGE_BYTES as u32);
    out.put_u32_le(0);
    out.put_u64_le(plan.root);
    out.put_u64_le(0);
    out.put_u64_le(NO_FREELIST);
    out.put_u64_le(plan.pages);
    out.put_u64_le(id);
    let checksum = fnv1a(&out[start..]);
    out.put_u64_le(checksum);
    debug_assert_eq!(out.len() - start, META_BYTES);
    pad(out);
}

fn put_leaf(out: &mut BytesMut, id: u64, leaf: &Leaf) {
    let count = leaf.items.len();
    put_page_header(out, id, LEAF, count, PAGE_HEADER_BYTES + leaf.bytes);
    let mut position = count * ITEM_BYTES;
    for item in &leaf.items {
        out.put_u32_le(item.flags);
        put_length(out, position);
        put_length(out, item.key);
        put_length(out, item.value);
        position = position + item.key + item.value - ITEM_BYTES;
    }
    let bytes = count * ITEM_BYTES + leaf.data.len();
    assert_eq!(bytes, leaf.bytes, "a value was only planned");
    out.put_slice(&leaf.data);
}

fn put_branch(out: &mut BytesMut, id: u64, branch: &Branch) {
    let count = branch.children.len();
    put_page_header(out, id, BRANCH, count, PAGE_HEADER_BYTES + branch.bytes);
    let mut position = count * ITEM_BYTES;
    for (key, child) in &branch.children {
        put_length(out, position);
        put_length(out, key.len());
        out.put_u64_le(*child);
        position = position + key.len() - ITEM_BYTES;
    }
    for (key, _) in &branch.children {
        out.put_slice(key);
    }
}

fn put_length(out: &mut BytesMut, length: usize) {
    out.put_u32_le(u32::try_from(length).expect("an item is shorter than 4 GiB"));
}

/// Fills up the last page.
fn pad(out: &mut BytesMut) {
    // Whole pages are taken or none, so the length tells where the page ends.
    let rest = out.len() % PAGE_BYTES;
    if rest > 0 {
        out.put_bytes(0, PAGE_BYTES - rest);
    }
}

fn bucket_header(root: u64) -> BytesMut {
    let mut value = BytesMut::with_capacity(BUCKET_BYTES);
    value.put_u64_le(root);
    value.put_u64_le(0);
    value
}
