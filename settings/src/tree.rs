//! Configurations as trees of JSON values with dotted paths.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Calls `visit` with the dotted path and value of every leaf; a non-empty map is no leaf.
pub(crate) fn leaves<'a>(value: &'a Value, prefix: &str, visit: &mut impl FnMut(&str, &'a Value)) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                leaves(value, &path, visit);
            }
        }
        leaf => visit(prefix, leaf),
    }
}

/// The value at `path`.
pub(crate) fn get<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(tree, |value, key| value.get(key))
}

/// Puts `value` at `path`, making maps on the way and replacing what is in it.
pub(crate) fn set(tree: &mut Value, path: &str, value: Value) {
    let mut at = tree;
    for key in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(map) = at else { return };
        at = map.entry(key.to_owned()).or_insert(Value::Null);
    }
    *at = value;
}

/// The top-level keys.
pub(crate) fn sections(tree: &Value) -> BTreeSet<String> {
    tree.as_object().into_iter().flat_map(Map::keys).cloned().collect()
}

/// The first part of `path`.
pub(crate) fn section_of(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn set_makes_what_is_missing_and_replaces_what_is_in_the_way() {
        let mut tree = json!({"a": {"b": 1}, "c": null, "d": 2});
        set(&mut tree, "a.x", json!(3));
        set(&mut tree, "c.y.z", json!(4));
        set(&mut tree, "d.e", json!(5));
        assert_eq!(tree, json!({"a": {"b": 1, "x": 3}, "c": {"y": {"z": 4}}, "d": {"e": 5}}));
        assert_eq!(get(&tree, "c.y.z"), Some(&json!(4)));
        assert_eq!(get(&tree, "c.y.q"), None);
    }

    #[test]
    fn leaves_have_dotted_paths() {
        let tree = json!({"a": {"b": [1], "c": {}}, "d": null});
        let mut found = Vec::new();
        leaves(&tree, "", &mut |path, _| found.push(path.to_owned()));
        assert_eq!(found, ["a.b", "a.c", "d"]);
    }
}
