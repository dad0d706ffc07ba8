//! Text that leaves its host as evidence: without secrets, and never more than was asked for.

/// What stands for a secret.
const MASK: &str = "***";
/// Shorter values are words, and masking them would only make the rest unreadable.
const SHORTEST: usize = 6;

/// Parts of names of variables whose values are secrets.
const NAMES: [&str; 10] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "CREDENTIAL",
];

/// How secrets begin that tell by themselves what they are.
const PREFIXES: [&str; 11] =
    ["whsec_", "sk-", "hf_", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "xoxb-", "AKIA", "eyJ"];

/// Words after which a secret comes: `password=…`, `token: …`, `Bearer …`.
const KEYS: [&str; 10] =
    ["password", "passwd", "secret", "token", "api_key", "apikey", "api-key", "access_key", "authorization", "cookie"];

/// Whether a variable of this name holds a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    NAMES.iter().any(|part| name.contains(part))
}

/// Whether a variable looks like one that holds a secret, by its name or by its value.
pub fn is_secret_variable(name: &str, value: &str) -> bool {
    is_secret_name(name) || is_secret_option(&format!("--{name}")) || holds_secret(&[value.to_owned()])
}

/// The secrets among variables written as `NAME=VALUE`: values of secret names, and passwords in URLs.
pub fn secrets_of<'a>(environment: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut secrets: Vec<String> = environment
        .into_iter()
        .filter_map(|variable| variable.split_once('='))
        .filter_map(|(name, value)| if is_secret_name(name) { Some(value) } else { password_in_url(value) })
        .filter(|value| value.len() >= SHORTEST)
        .map(str::to_owned)
        .collect();
    // The longest first: one may be the beginning of another.
    secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
    secrets.dedup();
    secrets
}

/// Text from outside as one line for people: without escape sequences, control characters and what looks like a secret, at most
/// `chars` long.
pub fn one_line(text: &str, chars: usize) -> String {
    let mut plain = String::with_capacity(text.len().min(4 * chars));
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            // A terminal's sequence: ESC [ … up to a letter.
            '\u{1b}' => {
                if rest.next_if_eq(&'[').is_some() {
                    while rest.next_if(|c| matches!(c, '0'..='9' | ';' | '?' | ':')).is_some() {}
                    rest.next();
                }
            }
            c if c.is_control() || is_invisible(c) => plain.push(' '),
            c => plain.push(c),
        }
    }
    let words: Vec<_> = plain.split_whitespace().collect();
    let masked = masked(&words.join(" "), &[]);
    match masked.char_indices().nth(chars) {
        None => masked,
        Some(_) => masked.chars().take(chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Characters that change how others are shown.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `text` without these secrets, and without what looks like one: a known prefix, a URL's password, a value after a word
/// such as `password=`.
pub fn masked(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|s| s.len() >= SHORTEST) {
        text = text.replace(secret.as_str(), MASK);
    }
    let mut in_key = false;
    let mut line = |line: &str| {
        let hidden = in_key && !line.contains("-----END");
        in_key = hidden || line.contains("-----BEGIN") && line.contains("PRIVATE KEY-----");
        if hidden { format!("{MASK}\n") } else { masked_line(line) }
    };
    text.split_inclusive('\n').map(&mut line).collect()
}

/// Whether an argument of a command is an option that a secret follows, or is part of: `--api-key`, `--token=…`.
fn is_secret_option(argument: &str) -> bool {
    let name = argument.split('=').next().unwrap_or_default();
    let file = ["file", "path", "dir"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
    let words = name.trim_start_matches('-').replace('-', "_");
    // How many there may be is no secret.
    let count = words.to_ascii_lowercase().ends_with("tokens");
    let is_key = words.eq_ignore_ascii_case("key") || words.to_ascii_lowercase().ends_with("_key");
    name.starts_with('-')
        && !file
        && !count
        && (is_key || is_secret_name(&words) || words.to_ascii_lowercase().contains("auth"))
}

/// Whether a command's arguments hold what looks like a secret.
pub fn holds_secret(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| is_secret_option(argument) || masked(argument, &[]) != *argument)
}

/// A command line as it may be shown.
pub fn command_line(text: &str) -> String {
    let (mut words, mut after_option): (Vec<String>, bool) = (Vec::new(), false);
    for word in text.split_whitespace() {
        let option = is_secret_option(word);
        words.push(match word.split_once('=') {
            _ if after_option && !word.starts_with('-') => MASK.to_owned(),
            Some((name, _)) if option => format!("{name}={MASK}"),
            _ => masked(word, &[]),
        });
        after_option = option && !word.contains('=');
    }
    words.join(" ")
}

fn masked_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    // Whether the next word is a secret: after `Bearer`, `token:`.
    let mut after_key = false;
    for word in line.split_inclusive(|c: char| c.is_whitespace()) {
        let (body, space) = word.split_at(word.trim_end().len());
        if body.is_empty() {
            out.push_str(space);
            continue;
        }
        let scheme = is_scheme(body);
        if after_key && !scheme {
            out.push_str(MASK);
        } else {
            out.push_str(&masked_word(body));
        }
        out.push_str(space);
        after_key = scheme || announces(body);
    }
    out
}

fn is_scheme(word: &str) -> bool {
    matches!(bare(word).to_ascii_lowercase().as_str(), "bearer" | "basic")
}

/// `password:`, `"token":`, `secret=`, `--api-key`: the value is the next word.
fn announces(word: &str) -> bool {
    word.ends_with([':', '=']) && is_key(bare(word))
        || word.starts_with("--") && !word.contains('=') && is_secret_option(word)
}

fn is_key(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    KEYS.iter().any(|key| word.ends_with(key))
}

fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
}

fn masked_word(word: &str) -> String {
    let word = match password_in_url(word) {
        Some(password) => word.replace(&format!(":{password}@"), &format!(":{MASK}@")),
        None => word.to_owned(),
    };
    // `a=b`, `a:b`, `{"a":"b"}`: each part by itself, so that one secret does not hide its neighbors.
    let mut out = String::with_capacity(word.len());
    let mut key_before = false;
    for part in word.split_inclusive(['=', ':', ',', '&', ';']) {
        let (body, end) = match part.char_indices().next_back() {
            Some((at, c)) if "=:,&;".contains(c) => part.split_at(at),
            _ => (part, ""),
        };
        let value = bare(body);
        let secret = !value.is_empty() && (key_before && value != MASK || looks_secret(value));
        out.push_str(&if secret { body.replace(value, MASK) } else { body.to_owned() });
        out.push_str(end);
        let in_query = end == "=" && (value.ends_with("?key") || value == "key" && word.contains('?'));
        key_before = (end == "=" || end == ":") && is_key(value) || in_query;
    }
    out
}

fn looks_secret(word: &str) -> bool {
    PREFIXES.iter().any(|p| word.len() >= p.len() + 12 && word.starts_with(p))
}

/// `scheme://user:PASSWORD@host`.
fn password_in_url(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#', ' ']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty() && password != MASK).then_some(password)
}

/// A text that may be a URL, without the user and password in it.
pub fn without_user(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password may have those characters as well, where somebody forgot to encode them.
    let end = rest.rfind('@').filter(|at| *at > end && !rest[..*at].contains(' ')).unwrap_or(end);
    match rest[..(end + 1).min(rest.len())].rfind('@') {
        Some(at) => format!("{scheme}://{MASK}{}", &rest[at..]),
        None => text.to_owned(),
    }
}

/// The first bytes of a text, cut at a line's end where there is one in its second half.
pub fn head(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let cut = &text[..floor(text, bytes)];
    match cut.rfind('\n') {
        Some(at) if at + 1 >= bytes / 2 => &cut[..=at],
        _ => cut,
    }
}

/// The last bytes of a text, from a line's beginning where there is one in its first half.
pub fn tail(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut from = text.len() - bytes;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let cut = &text[from..];
    match cut.find('\n') {
        Some(at) if at < bytes / 2 => &cut[at + 1..],
        _ => cut,
    }
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_queries_cookies_and_private_keys_are_masked() {
        let text = "run --api-key abcdefgh --port 8080\nGET /v1?key=abcdefgh&page=2\nCookie: session=abcdefgh\n\
                    -----BEGIN PRIVATE KEY-----\nMIIabcdefgh\n-----END PRIVATE KEY-----\nfine\n";
        let masked = masked(text, &[]);
        assert!(!masked.contains("abcdefgh"), "{masked}");
        for kept in ["--port 8080", "page=2", "BEGIN PRIVATE KEY", "fine"] {
            assert!(masked.contains(kept), "{kept}: {masked}");
        }
    }

    #[test]
    fn a_command_line_is_shown_without_its_keys() {
        for (line, shown) in [
            ("vllm serve m --api-key abc --port 8000", "vllm serve m --api-key *** --port 8000"),
            ("server --token=abcdef x", "server --token=*** x"),
            ("server --key k --auth-token t", "server --key *** --auth-token ***"),
            ("server sk-0123456789abcdef0123", "server ***"),
            ("server postgres://a:secretpw@h/d", "server postgres://a:***@h/d"),
        ] {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(command_line(line), shown);
            assert!(holds_secret(&arguments), "{line}");
        }
        for line in ["ollama serve", "vllm serve m --max-tokens 5 --ssl-key-file k.pem --api-key-file /etc/k"] {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!((command_line(line).as_str(), holds_secret(&arguments)), (line, false));
        }
    }

    #[test]
    fn a_line_for_people_has_no_controls_no_secrets_and_an_end() {
        assert_eq!(
            one_line("\u{1b}[1;31mOSError:\u{1b}[0m\r\n [Errno 98]\u{202e} in\tuse\0", 99),
            "OSError: [Errno 98] in use"
        );
        assert_eq!(one_line("token=abcdefghijk is wrong", 99), masked("token=abcdefghijk is wrong", &[]));
        assert_eq!(one_line(&"x".repeat(400), 300).chars().count(), 300);
        assert_eq!(one_line("\u{1b}", 9), "");
    }

    #[test]
    fn what_looks_like_a_secret_is_masked_and_its_neighbors_stay() {
        for (text, expected) in [
            ("listening on port 8080", "listening on port 8080"),
            ("password=hunter2 user=ada", "password=*** user=ada"),
            ("DB_PASSWORD: hunter2", "DB_PASSWORD: ***"),
            ("{\"token\":\"abcdef\",\"n\":1}", "{\"token\":\"***\",\"n\":1}"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
            ("postgres://ada:hunter2@db/x failed", "postgres://ada:***@db/x failed"),
            ("key sk-abcdefghijklmnop bad", "key *** bad"),
            ("GET /?token=abc&page=2", "GET /?token=***&page=2"),
            ("used 512 tokens in 3 s", "used 512 tokens in 3 s"),
            ("first\nwhsec_MfKQ9r8GKYqrTwjUPD8I\nlast", "first\n***\nlast"),
        ] {
            assert_eq!(masked(text, &[]), expected);
        }
    }

    #[test]
    fn a_url_is_shown_without_its_user() {
        for (text, expected) in [
            ("http://ada:hunter2@h:1/x", "http://***@h:1/x"),
            ("http://sk-abc@h", "http://***@h"),
            ("http://ada:p@ss@h/x?y", "http://***@h/x?y"),
            ("http://ada:p/ss#@h/x", "http://***@h/x"),
            ("http://h:1/x?mail=a@b", "http://***@b"),
            ("http://h:1/x", "http://h:1/x"),
            ("no url", "no url"),
            ("ada@example.com", "ada@example.com"),
        ] {
            assert_eq!(without_user(text), expected);
        }
    }

    #[test]
    fn values_of_secret_variables_are_masked_wherever_they_stand() {
        let secrets = secrets_of(["PGPASSWORD=correct horse", "URL=redis://:s3cr3tpw@h", "PATH=/bin", "TOKEN=abc"]);
        assert_eq!(secrets, ["correct horse", "s3cr3tpw"]);
        assert_eq!(masked("is it correct horse? s3cr3tpw /bin abc", &secrets), "is it ***? *** /bin abc");
    }

    #[test]
    fn whole_lines_are_kept_where_they_fit() {
        let text = "one\ntwo\nthree\n";
        assert_eq!((head(text, 9), tail(text, 9)), ("one\ntwo\n", "three\n"));
        assert_eq!((head(text, 99), tail(text, 99)), (text, text));
        assert_eq!((head("ääää", 3), tail("ääää", 3)), ("ä", "ä"));
    }

    proptest! {
        #[test]
        fn no_text_is_ever_longer_than_was_asked_for(text in "(.|\n){0,80}", bytes in 0usize..90) {
            prop_assert!(head(&text, bytes).len() <= bytes && text.starts_with(head(&text, bytes)));
            prop_assert!(tail(&text, bytes).len() <= bytes && text.ends_with(tail(&text, bytes)));
            let _ = masked(&text, &[]);
        }

        #[test]
        fn a_known_secret_never_remains(before in "[ -~]{0,20}", after in "[ -~]{0,20}") {
            let secret = "s3cr3t-v4lue".to_owned();
            let text = format!("{before}{secret}{after}");
            prop_assert!(!masked(&text, std::slice::from_ref(&secret)).contains(&secret));
        }
    }
}
