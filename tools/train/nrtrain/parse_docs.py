"""Readers of documentation: HTML, Mallard and DocBook alike, POD, manual pages."""

import gzip
import re
from html.parser import HTMLParser

from . import settings as S, sources
from .textutil import english, mostly_prose, sentences, shorten, squeeze

HEADINGS = {"h1", "h2", "h3", "h4", "h5", "title"}
PARAGRAPHS = {"p", "para", "simpara", "desc", "dd"}
SKIP = {"script", "style", "head", "nav", "pre", "screen", "programlisting", "code", "credit", "revision",
        "indexterm", "sect1info", "bookinfo", "table", "footer"}


class Outline(HTMLParser):
    """Turns markup into a flat run of ('h', text) and ('p', text)."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.items, self.buffer, self.kind, self.skipped = [], [], None, 0

    def _flush(self):
        text = squeeze("".join(self.buffer))
        if self.kind and text:
            self.items.append((self.kind, text))
        self.buffer = []

    def handle_starttag(self, tag, attrs):
        if tag in SKIP:
            self.skipped += 1
        elif tag in HEADINGS or tag in PARAGRAPHS:
            self._flush()
            self.kind = "h" if tag in HEADINGS else "p"

    def handle_endtag(self, tag):
        if tag in SKIP:
            self.skipped = max(0, self.skipped - 1)
        elif tag in HEADINGS or tag in PARAGRAPHS:
            self._flush()
            self.kind = None

    def handle_data(self, data):
        if self.kind and not self.skipped:
            self.buffer.append(data)


def _english(path):
    """Keep only English files of a package's tree."""
    text = str(path)
    if "/HTML/" in text:
        return "/HTML/en/" in text
    if "/debian-handbook/html/" in text:
        return "/en-US/" in text
    if "/help/" in text and "gnome-user-docs" in text:
        return "/help/C/" in text
    if "harden-doc" in text or "debian-faq" in text or "apache2" in text:
        return not re.search(r"/(de|es|fr|it|ja|ko|ru|zh|pt|pl|tr|da)[-_/]|\.(de|fr|ja|ko|tr|es|da|ru|zh-cn)\b", text)
    if "gnucash" in text:
        return not re.search(r"/(de|it|ja|pt|ru|zh)\b", text)
    return True


def outlines():
    """(package, outline) of every documentation file."""
    for name in S.DOC_PACKAGES:
        for path in sorted((sources.PKG / name).rglob("*")):
            if not path.is_file() or path.is_symlink() or not _english(path):
                continue
            suffix = path.name.split(".")[-1]
            if suffix in ("html", "htm", "xhtml", "page", "docbook") or suffix == "xml" and "help" in str(path) \
                    or path.name.endswith((".en.utf8", ".html.en", ".html.gz")):
                raw = gzip.open(path, "rt", errors="replace").read() if suffix == "gz" else path.read_text(errors="replace")
                parser = Outline()
                try:
                    parser.feed(re.sub(r"<\?.*?\?>", "", raw))
                except (AssertionError, ValueError):
                    continue
                yield name, parser.items
            elif suffix == "pod":
                yield name, pod(path.read_text(errors="replace"))


def pod(text):
    items = []
    for block in re.split(r"\n\s*\n", text):
        m = re.match(r"=(?:head\d|item)\s+(.*)", block, re.S)
        clean = squeeze(re.sub(r"[A-Z]<+\s*([^<>]*?)\s*>+", r"\1", m.group(1) if m else block))
        if m:
            items.append(("h", clean))
        elif not block.startswith(("=", " ", "\t")):
            items.append(("p", clean))
    return items


def heading_pairs():
    """(heading, paragraph) and the bare paragraphs of all outlines."""
    pairs, paragraphs = [], []
    for package, items in outlines():
        heading = None
        for kind, text in items:
            if kind == "h":
                heading = re.sub(r"^(?:chapter |appendix )?[A-Z]?[\d.]*[\d.:)]+\s*", "", text, flags=re.I).strip(" .:|#¶")
                heading = heading.split(" | ")[0]
                continue
            if not mostly_prose(text) or len(text.split()) < 9 or not english(text):
                continue
            text = shorten(text, S.PASSAGE_CHARS)
            paragraphs.append((package, text))
            if heading and 2 <= len(heading.split()) <= 14 and mostly_prose(heading):
                pairs.append((package, heading, text))
                heading = None
    return pairs, paragraphs


def manual_pages():
    """(what the page is about, start of its description)."""
    for name in ("manpages", "manpages-dev", "coreutils"):
        for path in sorted((sources.PKG / name).rglob("man/man*/*.gz")):
            text = gzip.open(path, "rt", errors="replace").read()
            text = re.sub(r"\\f[A-Z]|\\f\([A-Z]{2}|\\[&|/,]", "", text).replace("\\-", "-")
            m = re.search(r"\.SH \"?NAME\"?\n(.*?) \\?-+ (.*)\n", text)
            d = re.search(r"\.SH \"?DESCRIPTION\"?\n(.*?)(?=\n\.(?:SH|SS|TP|IP|PP|EX|nf))", text, re.S)
            if not m or not d:
                continue
            body = re.sub(r"^\.\\\".*$", "", d.group(1), flags=re.M)
            body = re.sub(r"^\.(?:BR|B|I|IR|RI|RB|BI|IB)\s+(.*)$", lambda k: k.group(1).replace('"', ""), body, flags=re.M)
            body = shorten(squeeze(re.sub(r"^\.\S+.*$", "", body, flags=re.M)), S.PASSAGE_CHARS)
            if mostly_prose(body) and len(body.split()) > 8 and sentences(body):
                yield squeeze(m.group(2)), body
