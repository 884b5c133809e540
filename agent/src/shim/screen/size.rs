//! Sizes of terminals and their bounds.

use stratavore_proto::v1;

/// Largest screen kept: 32 bytes a cell and two grids make 32 MiB at most, for one deliberate giant.
pub(super) const ROWS_MAX: u16 = 500;
/// See [`ROWS_MAX`].
pub(super) const COLS_MAX: u16 = 1000;

/// Smallest screen: below two columns a wide character has no place.
pub(super) const SIDE_MIN: u16 = 2;

/// Size of a terminal nobody has attached to yet: programs wrap badly at 80x24.
pub const DEFAULT_SIZE: Size = Size { rows: 40, cols: 120 };

/// Size of a terminal, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub cols: u16,
}

impl Size {
    /// A size within the bounds, from anything.
    #[must_use]
    pub fn clamped(rows: u32, cols: u32) -> Self {
        let side = |value: u32, max: u16| u16::try_from(value).unwrap_or(max).clamp(SIDE_MIN, max);
        Self { rows: side(rows, ROWS_MAX), cols: side(cols, COLS_MAX) }
    }

    /// On the wire.
    #[must_use]
    pub fn wire(self) -> v1::WindowSize {
        v1::WindowSize { rows: self.rows.into(), cols: self.cols.into() }
    }
}
