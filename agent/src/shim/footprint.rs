//! What a shim keeps in memory once it has nothing to do.

use super::fork::forget_pages;

/// Gives back the pages of code that are mapped now, most of them the start's. They belong to files, and each comes
/// back by itself, in about a microsecond, when it is needed.
pub(super) fn forget_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines().filter(|line| line.contains(" r-xp ") && line.contains('/')) {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let Some((from, to)) = range else { continue };
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        let (from, to) = (number(from), number(to));
        forget_pages(from, to.saturating_sub(from));
    }
}
