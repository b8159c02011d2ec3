//! The house rules that a reader can check by eye and a machine should: who may import whom.

use std::fs;
use std::path::{Path, PathBuf};

/// Foreign crates and the only place each may be named in; a place ending in `/` is a folder.
const PLACES: &[(&str, &str)] = &[
    ("clap", "cli/given.rs"),
    ("mimalloc", "main.rs"),
    ("libmimalloc_sys", "shard/sys.rs"),
    ("rustls", "upstream/tls/"),
    ("monoio_rustls", "upstream/tls/"),
    ("hdrhistogram", "observe/latency/"),
    ("core_affinity", "shard/"),
    ("io_uring", "shard/"),
    ("hickory_resolver", "upstream/dns/"),
    ("h2", "upstream/http2/"),
    ("http", "upstream/http2/"),
    ("bytes", "upstream/http2/"),
];

/// The only files in which a raw call may be made.
const UNSAFE_FILES: &[&str] = &["sys.rs", "local_time.rs"];

struct SourceFile {
    /// Relative to `src`, with forward slashes.
    path: String,
    /// Without comments and tests.
    code: String,
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn source_files() -> Vec<SourceFile> {
    let mut files = Vec::new();
    let mut dirs = vec![src()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let relative = path.strip_prefix(src()).expect("below src");
                let path = relative.to_str().expect("UTF-8").to_owned();
                files.push(SourceFile { path, code: code_of(&text) });
            }
        }
    }
    files
}

/// Leaves out what stands behind `#[cfg(test)]`: tests at the end of the file, or one `mod` or `use` line.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("#[cfg(test)]") {
            match lines.next() {
                Some(item) if item.ends_with(';') => continue,
                _tests => break,
            }
        }
        code += line.split("//").next().unwrap_or_default();
        code.push('\n');
    }
    code
}

/// Top-level modules in the order of `lib.rs`, which is the order of a request's path.
fn modules() -> Vec<String> {
    let lib = fs::read_to_string(src().join("lib.rs")).expect("src/lib.rs");
    let named = |line: &str| {
        let line = line.split("//").next()?.trim();
        let (before, name) = line.strip_suffix(';')?.rsplit_once("mod ")?;
        let visible = before.is_empty() || before.trim().starts_with("pub");
        visible.then(|| name.trim().to_owned())
    };
    lib.lines().filter_map(named).collect()
}

/// First path segments behind `crate::`, in paths and in groups of imports.
fn imports(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let inside_word = code[..at].chars().next_back().is_some_and(is_word);
        let rest = &code[at + "crate::".len()..];
        if inside_word {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => names.extend(heads_of_group(group)),
            None => names.push(word_at_start(rest)),
        }
    }
    names
}

/// The first words of the members of `{a::b, c, d::{e, f}}`, given what follows the first brace.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut at_member = true;
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_member = true,
            char if at_member && is_word(char) => {
                heads.push(word_at_start(&group[at..]));
                at_member = false;
            }
            _ => {}
        }
    }
    heads
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

fn word_at_start(text: &str) -> String {
    text.chars().take_while(|&char| is_word(char)).collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|char| !is_word(char)).filter(|word| !word.is_empty())
}

#[test]
fn file_imports_only_modules_below_its_own() {
    let modules = modules();
    assert!(!modules.is_empty(), "no modules in src/lib.rs");
    let rank = |name: &str| modules.iter().position(|module| module == name);
    let mut faults = Vec::new();
    for file in source_files() {
        let own = file.path.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        if matches!(own, "lib" | "main") {
            continue;
        }
        let Some(own_rank) = rank(own) else {
            faults.push(format!("src/{}: {own} is not in lib.rs", file.path));
            continue;
        };
        for import in imports(&file.code) {
            if rank(&import).is_some_and(|rank| rank < own_rank) {
                faults.push(format!("src/{}: {import} stands above {own} in lib.rs", file.path));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn foreign_crate_stays_in_its_place() {
    let mut faults = Vec::new();
    for file in source_files() {
        for (name, place) in PLACES {
            let path = format!("{name}::");
            let named = file.code.match_indices(&path).any(|(at, _)| {
                // `crate::observe::rustls::` would be ours; `::rustls::` and `rustls::` are not.
                let before = file.code[..at].trim_end_matches("::");
                let qualified = before.len() < at && before.ends_with(is_word);
                !qualified && !file.code[..at].ends_with(is_word)
            });
            let at_home = match place.strip_suffix('/') {
                Some(folder) => file.path.starts_with(place) || file.path == format!("{folder}.rs"),
                None => file.path == *place,
            };
            if named && !at_home {
                faults.push(format!("src/{}: {name} belongs in src/{place}", file.path));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn unsafe_stays_in_its_files() {
    let mut faults = Vec::new();
    for file in source_files() {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if words(&file.code).any(|word| word == "unsafe") && !UNSAFE_FILES.contains(&name) {
            faults.push(format!("src/{}: unsafe outside {UNSAFE_FILES:?}", file.path));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Rows of the map in lib.rs: file, and the word in it at which to begin.
fn map_of_decisions() -> Vec<(String, String)> {
    let lib = fs::read_to_string(src().join("lib.rs")).expect("src/lib.rs");
    let cell = |text: &str| text.trim().strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("//! |")?.split('|').collect();
        Some((cell(cells.get(1)?)?, cell(cells.get(2)?)?))
    };
    lib.lines().filter_map(row).collect()
}

#[test]
fn map_of_decisions_leads_to_what_it_names() {
    let (map, files) = (map_of_decisions(), source_files());
    assert!(map.len() > 20, "{} rows in src/lib.rs", map.len());
    for (path, word) in map {
        let file = files.iter().find(|file| file.path == path);
        let code = &file.unwrap_or_else(|| panic!("src/lib.rs names {path}: no such file")).code;
        assert!(words(code).any(|found| found == word), "src/{path} has no {word}");
    }
}

#[test]
fn readme_says_what_each_crate_is_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect(name);
    let (manifest, readme) = (read("Cargo.toml"), read("README.md"));
    let (_, table) = readme.split_once("\n## Dependencies\n").expect("the chapter of crates");
    let table = table.split("\n## ").next().unwrap_or_default();
    let is_word = |char: char| char.is_alphanumeric() || char == '_' || char == '-';
    let mut count = 0;
    for part in ["[dependencies]", "[dev-dependencies]"] {
        let (_, lines) = manifest.split_once(part).expect(part);
        let lines = lines.lines().skip(1).take_while(|line| !line.is_empty());
        for name in lines.filter_map(|line| line.split_once(" =")).map(|(name, _)| name) {
            let is_named = table.split(|char| !is_word(char)).any(|word| word == name);
            assert!(is_named, "README.md does not say what {name} is for");
            count += 1;
        }
    }
    assert!(count > 20, "{count} crates in Cargo.toml");
}

#[test]
fn imports_are_found_in_paths_and_groups() {
    let code =
        "use crate::{a::{x, y}, b, c::z};\nuse crate::d;\nlet n = crate::e::F; mycrate::g();";
    assert_eq!(imports(code), ["a", "b", "c", "d", "e"]);
}

#[test]
fn code_behind_a_line_for_tests_counts_and_tests_do_not() {
    let text =
        "mod a;\n#[cfg(test)]\nmod tests;\nmod b; // c\n#[cfg(test)]\nmod more {\nmod d;\n}\n";
    assert_eq!(code_of(text), "mod a;\nmod b; \n");
}
