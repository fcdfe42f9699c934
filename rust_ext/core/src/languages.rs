//! Which script and language a text is written in, by its first letters.
//!
//! By `whatlang` (trigrams after Cavnar and Trenkle 1994), whose answer counts where it calls it reliable. Lines of code
//! between fences are left out. Most texts are English and say so by a few words that no other language has together:
//! these need no trigrams.

use std::collections::HashSet;

use whatlang::Script;

use crate::words::hash_words;

const MAX_LETTERS: usize = 400; // more change the answer seldom
const MIN_LETTERS: usize = 12;
const ENGLISH: &str = "the and that with this you are for have which from what your";
const MIN_ENGLISH: usize = 3;

/// The English names of a script and a language, None where they are not known.
pub type Names = (Option<&'static str>, Option<&'static str>);

/// The script and the language of each text.
#[must_use]
pub fn scripts_and_languages<T: AsRef<str>>(texts: &[T]) -> Vec<Names> {
    let mut words = Vec::new();
    hash_words(ENGLISH, &mut words);
    let english: HashSet<u64> = words.iter().copied().collect();
    let of = |text: &T| {
        let prose = first_letters(text.as_ref());
        hash_words(&prose, &mut words);
        words.retain(|word| english.contains(word));
        words.sort_unstable();
        words.dedup();
        if words.len() >= MIN_ENGLISH { (Some("Latin"), Some("English")) } else { detect(&prose) }
    };
    texts.iter().map(of).collect()
}

fn first_letters(text: &str) -> String {
    let mut in_code = false;
    let mut prose = String::new();
    let mut num_letters = 0;
    for line in text.split('\n') {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            for letter in line.chars().take(MAX_LETTERS - num_letters) {
                num_letters += 1;
                prose.push(letter);
            }
            prose.push(' ');
        }
        if num_letters >= MAX_LETTERS {
            break;
        }
    }
    prose
}

fn detect(prose: &str) -> Names {
    let east_asian: String = prose.chars().filter(|&letter| is_east_asian(letter)).collect();
    let num_letters = prose.chars().filter(|letter| letter.is_alphabetic()).count();
    // a name in Latin letters is longer than the sentence around it in Han letters
    let prose = if 4 * east_asian.chars().count() >= num_letters { &east_asian } else { prose };
    let Some(info) = whatlang::detect(prose) else { return (None, None) };
    let is_long = prose.chars().filter(|letter| letter.is_alphabetic()).count() >= MIN_LETTERS;
    let language = (info.is_reliable() && is_long).then(|| info.lang().eng_name());
    (Some(name(info.script())), language)
}

fn is_east_asian(letter: char) -> bool {
    matches!(u32::from(letter), 0x3040..=0x30ff | 0x3400..=0x9fff | 0xac00..=0xd7af | 0x2_0000..=0x3_ffff)
}

/// Japanese writes Han letters and kana in one text: one name for what it is written in.
fn name(script: Script) -> &'static str {
    match script {
        Script::Mandarin => "Han",
        Script::Hiragana | Script::Katakana => "kana",
        Script::Arabic => "Arabic",
        Script::Armenian => "Armenian",
        Script::Bengali => "Bengali",
        Script::Cyrillic => "Cyrillic",
        Script::Devanagari => "Devanagari",
        Script::Ethiopic => "Ethiopic",
        Script::Georgian => "Georgian",
        Script::Greek => "Greek",
        Script::Gujarati => "Gujarati",
        Script::Gurmukhi => "Gurmukhi",
        Script::Hangul => "Hangul",
        Script::Hebrew => "Hebrew",
        Script::Kannada => "Kannada",
        Script::Khmer => "Khmer",
        Script::Latin => "Latin",
        Script::Malayalam => "Malayalam",
        Script::Myanmar => "Burmese",
        Script::Oriya => "Odia",
        Script::Sinhala => "Sinhala",
        Script::Tamil => "Tamil",
        Script::Telugu => "Telugu",
        Script::Thai => "Thai",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script_and_language(text: &str) -> Names {
        scripts_and_languages(&[text])[0]
    }

    #[test]
    fn languages_are_told_by_a_sentence() {
        let expected = [
            ("The longest river of Europe flows into the Caspian Sea.", Some("Latin"), Some("English")),
            ("Der längste Fluss Europas mündet in das Kaspische Meer.", Some("Latin"), Some("German")),
            ("El río más largo de Europa desemboca en el mar Caspio.", Some("Latin"), Some("Spanish")),
            ("Самая длинная река Европы впадает в Каспийское море.", Some("Cyrillic"), Some("Russian")),
            ("欧洲最长的河流流入里海，它叫伏尔加河。", Some("Han"), Some("Mandarin")),
            ("ヨーロッパで最も長い川はカスピ海に流れ込みます。", Some("kana"), Some("Japanese")),
        ];
        for (text, script, language) in expected {
            assert_eq!(script_and_language(text), (script, language), "{text}");
        }
    }

    #[test]
    fn latin_names_in_a_sentence_of_han_letters_do_not_hide_its_script() {
        let text = "为TaskRabbit写20条推特帖子，并使它们对SEO友好，谢谢。";
        assert_eq!(script_and_language(text), (Some("Han"), Some("Mandarin")));
    }

    #[test]
    fn code_and_few_letters_say_nothing() {
        assert_eq!(script_and_language("```\nfor item in list: print(item)\n```"), (None, None));
        assert_eq!(script_and_language("42 + 7"), (None, None));
        assert_eq!(script_and_language(""), (None, None));
        assert_eq!(
            script_and_language("Which of these rivers is the longest, and what are you for?").1,
            Some("English")
        );
        assert_eq!(script_and_language("Paris").1, None);
    }
}
