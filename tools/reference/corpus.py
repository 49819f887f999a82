"""Text for the reference checkpoints: what their small tokenizers are trained on, and the cases they are scored on.

Everything here was written for this project. The training text is a handful of paragraphs in several scripts, so
that a vocabulary of about a thousand pieces has real sub-words, real gaps, and real unknown characters.
"""

TRAINING = """
A search engine first finds a few hundred candidates quickly and then reads the best of them slowly.
The second step is called reranking: a model reads the query and one candidate together and gives one score.
How do I boil an egg so that the yolk stays soft? Put it into boiling water for six minutes, then into cold water.
The library opens at nine in the morning and closes at eight in the evening, except on public holidays.
Machine learning algorithms find patterns in data; deep learning uses neural networks with many layers.
Our neighbour's bicycle was stolen last night from in front of the house, although it was locked to the fence.
To reset the router, hold the small button on its back for ten seconds until the lights begin to blink.
The train to the airport leaves every twenty minutes from platform four and takes about half an hour.
Plant tomatoes after the last frost, water them at the root, and tie the stems to a stick as they grow.
If the payment fails, check the number of the card and its date, then try once more or call the bank.
Whales are mammals: they breathe air, they are warm-blooded, and they feed their young with milk.
She walked slowly along the river, thinking about the letter that had arrived on Tuesday from Lisbon.
Version 2.11.0 fixes 37 bugs, adds 5 functions (see pages 12-15), and costs $49.99 or 45,50 euros a year.
Error: connection refused (code 111); the server at 127.0.0.1:4222 is not running. Retry in 250 ms!
def rank(scores): return sorted(range(len(scores)), key=lambda i: -scores[i])
Unbelievable misunderstandings and internationalization are reasonably uncharacteristic, unquestionably.
Die Suchmaschine findet zuerst viele Kandidaten und liest danach die besten davon genau. Größe, Übung, Straße.
Le moteur de recherche trouve d'abord des candidats, puis il lit les meilleurs. L'été, où, façade, naïve, cœur.
El motor de búsqueda encuentra candidatos y después lee los mejores. ¿Dónde está la estación? ¡Mañana!
Поисковая система сначала находит кандидатов, а затем внимательно читает лучшие из них.
Η μηχανή αναζήτησης βρίσκει πρώτα πολλούς υποψηφίους και μετά διαβάζει τους καλύτερους.
搜索引擎先快速找到一些候选文档，然后仔细阅读其中最好的。机器学习算法。
検索エンジンはまず候補を見つけ、それから最良のものを読みます。機械学習のアルゴリズム。
검색 엔진은 먼저 후보를 찾은 다음 가장 좋은 것을 읽습니다.
محرك البحث يجد المرشحين أولا ثم يقرأ أفضلهم ببطء.
מנוע החיפוש מוצא תחילה מועמדים ואז קורא את הטובים ביותר.
खोज इंजन पहले उम्मीदवार ढूंढता है और फिर सबसे अच्छे को पढ़ता है।
""".strip().splitlines()

WORDS = (
    "river engine apple window letter winter garden signal bridge market yellow silver patient doctor kitchen "
    "database network ticket worker queue model token vector search candidate score order budget deadline reply"
).split()


def filler(count: int, start: int = 0) -> str:
    """`count` words in a fixed order: word number i is WORDS[(i * 7 + i // 5) mod len]."""
    return " ".join(WORDS[(i * 7 + i // 5) % len(WORDS)] for i in range(start, start + count))


def many(count: int) -> list[str]:
    """`count` short documents of one to six words; document i starts at word i * 3 and ends with its own number."""
    return [f"{filler(i % 6 + 1, i * 3)} {i}" for i in range(count)]


def cases() -> list[tuple[str, str, list[str]]]:
    """(name, query, documents) for every case; the limits that the `long` ones exceed are 64 to 512 tokens."""
    query = "machine learning algorithms"
    plain = [
        "Deep learning uses neural networks",
        "Pizza recipes for beginners",
        "ML algorithms and optimization",
        "Sports statistics this season",
    ]
    long_text = filler(700)
    return [
        ("plain", query, plain),
        ("one_document", query, plain[2:3]),
        ("empty_documents", query, ["", " ", "\n\t  \r\n", "a", "."]),
        ("white_space", "  machine \t learning\nalgorithms  ", [" Deep  learning\tuses neural networks ", "a\u00a0b\u3000c\u200bd\u2028e"]),
        ("combining_marks", "cafe\u0301 na\u00efve Stra\u00dfe", ["caf\u00e9", "cafe\u0301", "Z\u0351\u036b\u0343\u036a\u0302\u036ba\u033d\u0353\u0324l\u034f\u0339g\u0315\u034do", "\ufb01ne \u2460 \u33a5 \u212b \uff21\uff22\uff23", "\u0130stanbul I\u0307 \u1e9e"]),
        ("cjk", "機械学習のアルゴリズム", ["搜索引擎先快速找到一些候选文档", "検索エンジンはまず候補を見つけ", "검색 엔진은 먼저 후보를", "mixed 中文 and English 混合", "𠀀𠀁 rare ideographs 龘"]),
        ("emoji", "family 👨‍👩‍👧‍👦 photo 📷", ["👩🏽‍🚀🚀", "❤️‍🔥 ❤ ❤️", "🇩🇪🇫🇷 flags", "no emoji here", "\ufe0f\u200d"]),
        ("right_to_left", "محرك البحث", ["מנוע החיפוש מוצא תחילה מועמדים", "محرك البحث يجد المرشحين", "left \u202eright\u202c left", "שָׁלוֹם עם ניקוד"]),
        ("special_tokens", "what is [SEP] or </s> here", ["[CLS] a [SEP] b", "<s> a </s></s> b </s>", "<pad> <pad>word<pad>", "[PAD][MASK] [UNK] <mask> <unk>", "[sep] [ SEP ] <S>", "<pad>"]),
        ("control_characters", "line\u0007 bell\u0000 nul", ["\u0000", "a\u0001b\u0002c\u007fd", "\ufeffbyte order mark", "\ufffd replacement \ufffe\uffff", "soft\u00adhyphen"]),
        ("one_very_long_word", "x" * 150, ["a" * 99, "a" * 100, "a" * 101, "unbelievablemisunderstandings" * 30, "https://example.org/" + "path/" * 120 + "?q=1"]),
        ("punctuation_and_numbers", "what costs $49.99?", ["It's 45,50 euros -- a year...", "1234567890 0x1F 1e-12 3.14159", "a_b-c/d\\e:f;g", "“quotes” ‘and’ – dashes — …", "C++ & C# !!!???"]),
        ("long_document", query, [long_text, filler(60), filler(120, 5), "short one"]),
        ("long_query", filler(700, 11), ["short document", "", filler(20)]),
        ("long_both", filler(400, 3), [filler(400, 50), filler(130, 9), long_text]),
        ("just_at_the_limit", "a b", [" ".join("a" for _ in range(n)) for n in (56, 57, 58, 59, 60, 61, 62)]),
        ("many_documents", "yellow bridge over the river", many(500)),
    ]
