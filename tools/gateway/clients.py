"""Asks gateways through the clients that applications already use, each told a URL and a key and nothing else.

    clients.py READY_URL ABSENT_URL STRICT_URL TOKEN

READY has a worker behind it; ABSENT has none and answers in the order that came in; STRICT has none and answers 503.
"""

import json
import sys
import urllib.request
import warnings

warnings.filterwarnings("ignore")
import cohere  # noqa: E402
from cohere.core.api_error import ApiError  # noqa: E402
from langchain_cohere import CohereRerank as LangChainCohere  # noqa: E402
from langchain_core.documents import Document  # noqa: E402
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode  # noqa: E402
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaCohere  # noqa: E402
from llama_index.postprocessor.jinaai_rerank import JinaRerank as LlamaJina  # noqa: E402
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference as LlamaTei  # noqa: E402

QUERY = "how do cats purr"
TEXTS = [
    "The price of cat food rose last year.",
    "Dogs bark when somebody comes to the door.",
    "Cats purr by moving the muscles of the larynx while they breathe in and out.",
    "A cat is a small animal that people keep at home.",
    "The recipe wants two eggs and a cup of flour.",
]
MODEL = "rerank-v3.5"

Pairs = list[tuple[int, float]]


def own(url: str, token: str) -> Pairs:
    """The gateway's own shape, by nothing but the standard library: what the others are held to."""
    body = json.dumps({"query": QUERY, "documents": TEXTS, "raw_scores": True}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/rerank", body, headers), timeout=60) as answer:
        return [(row["index"], row["score"]) for row in json.load(answer)["rankings"]]


def cohere_v2(url: str, token: str, top_n: int | None) -> Pairs:
    client = cohere.ClientV2(api_key=token, base_url=url)
    answer = client.rerank(model=MODEL, query=QUERY, documents=TEXTS, top_n=top_n, max_tokens_per_doc=512)
    assert answer.id and answer.meta.billed_units.search_units == 1, answer
    return [(row.index, row.relevance_score) for row in answer.results]


def cohere_v1(url: str, token: str, top_n: int | None) -> Pairs:
    client = cohere.Client(api_key=token, base_url=url)
    answer = client.rerank(model=MODEL, query=QUERY, documents=[{"text": text} for text in TEXTS], top_n=top_n, return_documents=True)
    assert all(row.document.text == TEXTS[row.index] for row in answer.results), answer
    return [(row.index, row.relevance_score) for row in answer.results]


def langchain_cohere(url: str, token: str, top_n: int | None) -> Pairs:
    reranker = LangChainCohere(cohere_api_key=token, base_url=url, model=MODEL, top_n=top_n)
    documents = [Document(text, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    found = reranker.compress_documents(documents, QUERY)
    return [(document.metadata["place"], document.metadata["relevance_score"]) for document in found]


def llama_index(reranker) -> Pairs:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(place)), score=1 - place / 10) for place, text in enumerate(TEXTS)]
    found = reranker.postprocess_nodes(nodes, query_bundle=QueryBundle(QUERY))
    return [(int(node.node.node_id), node.score) for node in found]


CLIENTS = {
    "Cohere SDK, ClientV2": cohere_v2,
    "Cohere SDK, Client": cohere_v1,
    "LangChain, CohereRerank": langchain_cohere,
    "LlamaIndex, CohereRerank": lambda url, token, top_n: llama_index(LlamaCohere(api_key=token, base_url=url, top_n=top_n or 100, max_retries=1)),
    "LlamaIndex, JinaRerank": lambda url, token, top_n: llama_index(LlamaJina(api_key=token, base_url=f"{url}/v1", top_n=top_n or 100)),
    "LlamaIndex, TextEmbeddingInference": lambda url, token, top_n: llama_index(LlamaTei(base_url=url, auth_token=f"Bearer {token}", top_n=top_n or 100)),
}


def check(name: str, pairs: Pairs, places: list[int]) -> None:
    found, scores = [place for place, _ in pairs], [score for _, score in pairs]
    assert found == places, f"{name}: {found}, expected {places}"
    assert all(0 <= score <= 1 for score in scores), f"{name}: {scores}"
    assert scores == sorted(scores, reverse=True), f"{name}: {scores}"


def main() -> None:
    ready, absent, strict, token = sys.argv[1:]
    order = [place for place, _ in own(ready, token)]
    assert sorted(order) == list(range(len(TEXTS))) and order != sorted(order), order
    unchanged = list(range(len(TEXTS)))
    for name, ask in CLIENTS.items():
        check(f"{name}, all", ask(ready, token, None), order)
        check(f"{name}, two", ask(ready, token, 2), order[:2])
        check(f"{name}, no worker", ask(absent, token, None), unchanged)
        for url, key in [(strict, token), (ready, "another")]:
            try:
                answer = ask(url, key, None)
            except (ApiError, RuntimeError, TypeError) as problem:
                told = str(getattr(problem, "body", problem))
                # LlamaIndex's client of TEI reads an error as if it were scores, and says so in its own words.
                assert "TextEmbedding" in name or "no ranking" in told or "token" in told, f"{name}: {problem!r}"
            except AssertionError:
                assert "TextEmbedding" in name, name
            else:
                raise AssertionError(f"{name}: no error, but {answer}")
        print(f"  ok  {name}: {order}, and {unchanged} without a worker; errors arrive")
    models = json.load(urllib.request.urlopen(urllib.request.Request(f"{ready}/v1/models", headers={"Authorization": f"Bearer {token}"}), timeout=60))
    print(f"  ok  /v1/models: {models['data'][0]['id']}")


if __name__ == "__main__":
    main()
