//! The timeline as an HTML page that needs nothing but itself: style, script and data are in it.

use crate::timeline::Timeline;

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// The script in the order in which its parts build on each other.
const SCRIPT: [&str; 3] =
    [include_str!("page_data.js"), include_str!("page_draw.js"), include_str!("page_input.js")];

/// Draws the timeline.
pub fn page(timeline: &Timeline) -> String {
    let data = serde_json::to_string(timeline).expect("a timeline consists of what JSON has");
    // Nothing in the data may end the element that it stands in.
    let data = data.replace("</", "<\\/").replace("<!--", "<\\u0021--");
    let title = timeline.title.replace('&', "&amp;").replace('<', "&lt;");
    FRAME
        .replace("{{title}}", &title)
        .replace("{{style}}", STYLE)
        .replace("{{script}}", &SCRIPT.concat())
        .replace("{{data}}", &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::fold::fold;
    use crate::timeline::record::Record;

    #[test]
    fn the_page_is_whole_and_asks_nobody_for_anything() {
        let title = "</script><b>&".to_string();
        let page = page(&fold(&Record { title, end: 5, ..Record::default() }));
        assert!(!page.contains("{{"), "a part of the page was not filled in");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "the page asks for {outside}");
        }
        assert_eq!(page.matches("</script>").count(), 2, "the data ended its element");
    }
}
