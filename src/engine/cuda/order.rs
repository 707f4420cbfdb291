//! Room: engines, CUDA. Rows and columns in the order of their labels, so that the pairs that match
//! lie in a narrow band of tiles: passes look closely at these alone, whatever the order of the batch.
//!
//! All passes of a call see sorted rows and sorted keys; gradients go back to the caller's order at
//! the end. The sort is stable, so the order is a function of the labels: a backward pass finds that
//! of its forward pass again.

use super::launch::order::Keys;
use super::launch::{Address, IDS, LABELED, Launcher, Pairs};
use super::passes::Shape;
use super::workspace::{Layout, Region};
use crate::Result;
use crate::loss::formula::Mining;

/// Keys of one side in order: labels, or the columns of an index.
#[derive(Clone, Copy, Debug)]
pub(super) struct SortedKeys {
    sorted: Region,
    order: Region,
    other: Region,
    count: usize,
}

impl SortedKeys {
    pub fn plan(layout: &mut Layout, count: usize) -> Result<Self> {
        Ok(Self {
            sorted: layout.take::<u32>(count)?,
            order: layout.take::<u32>(count)?,
            other: layout.take::<[u32; 2]>(count)?,
            count,
        })
    }

    /// Its places, to be sorted from `keys`.
    pub fn of(&self, keys: Address, base: Address) -> Keys {
        Keys {
            keys,
            sorted: self.sorted.at(base),
            order: self.order.at(base),
            other: self.other.at(base),
            count: self.count as u32,
        }
    }
}

/// Where the order of a labelled batch lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderPlan {
    rows: SortedKeys,
    columns: SortedKeys,
    row_ids: Region,
    column_ids: Region,
    /// Where the columns of every row's label begin and end.
    matches: Region,
    shared: bool,
}

impl OrderPlan {
    /// `None` where the caller's order is kept: mining tells ties apart by its row and column
    /// numbers.
    pub fn plan(layout: &mut Layout, shape: &Shape) -> Result<Option<Self>> {
        if shape.flags & LABELED == 0 || shape.mining != Mining::All {
            return Ok(None);
        }
        let mut ids = |count| layout.take::<u32>(if shape.flags & IDS != 0 { count } else { 0 });
        let (row_ids, column_ids) = (ids(shape.n)?, ids(shape.m)?);
        Ok(Some(Self {
            rows: SortedKeys::plan(layout, shape.n)?,
            columns: SortedKeys::plan(layout, shape.m)?,
            row_ids,
            column_ids,
            matches: layout.take::<[u32; 2]>(shape.n)?,
            shared: shape.shared,
        }))
    }

    /// The addresses of the orders of both sides; one and the same where they are one set.
    pub fn orders(&self, base: Address) -> [Address; 2] {
        let columns = if self.shared { &self.rows } else { &self.columns };
        [self.rows.order.at(base), columns.order.at(base)]
    }

    /// The caller's `pairs` in this order.
    pub fn pairs(&self, mut pairs: Pairs, base: Address) -> Pairs {
        // A shared set is in the order of its labels as rows.
        let in_order = !self.shared || pairs.row_labels == pairs.column_labels;
        pairs.row_matches = if in_order { self.matches.at(base) } else { 0 };
        pairs.row_labels = self.rows.sorted.at(base);
        pairs.column_labels = self.columns.sorted.at(base);
        pairs.row_ids = self.row_ids.at(base);
        pairs.column_ids = self.column_ids.at(base);
        pairs
    }

    /// Finds the order of the caller's `pairs`, and their keys in it.
    ///
    /// # Safety
    /// As for [`super::passes::Pass`].
    pub unsafe fn run(&self, launch: &Launcher<'_>, pairs: &Pairs, base: Address) -> Result<()> {
        let rows = self.rows.of(pairs.row_labels, base);
        let columns = self.columns.of(pairs.column_labels, base);
        let [row_order, column_order] = self.orders(base);
        let sorted = self.pairs(*pairs, base);
        // SAFETY: the plan's regions are as large as their sides, the caller's keys too; kernels
        // read what one before them wrote.
        unsafe {
            launch.sort_keys(rows, (!self.shared).then_some(columns))?;
            if self.shared {
                // Self-pairs stay on the diagonal.
                let (labels, to) = (pairs.column_labels, sorted.column_labels);
                launch.gather_keys(labels, column_order, pairs.columns, to)?;
            }
            if sorted.row_matches != 0 {
                let Pairs { row_labels, column_labels, rows, columns, row_matches, .. } = sorted;
                launch.key_matches(row_labels, rows, column_labels, columns, row_matches)?;
            }
            if pairs.has(IDS) {
                launch.gather_keys(pairs.row_ids, row_order, pairs.rows, sorted.row_ids)?;
                let (ids, to) = (pairs.column_ids, sorted.column_ids);
                launch.gather_keys(ids, column_order, pairs.columns, to)?;
            }
        }
        Ok(())
    }
}
