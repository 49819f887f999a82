"""Asks gateways through the clients that applications already use, each told a URL and a key and nothing else.

    clients.py GROUP READY_URL ABSENT_URL STRICT_URL TOKEN

GROUP is `frameworks` or `apart`, the clients that need other versions of the same libraries. READY has a worker behind it; ABSENT has none and answers in the order that came in; STRICT has none and answers 503.
"""

import json
import os
import sys
import urllib.request
import warnings
from collections.abc import Callable

warnings.filterwarnings("ignore")
GROUP = sys.argv[1]
# No look into the internet.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import cohere  # noqa: E402

if GROUP == "frameworks":
    import litellm

    litellm.suppress_debug_info = True
    import voyageai
    from haystack import Document as HaystackDocument
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker as HaystackCohere
    from langchain_cohere import CohereRerank as LangChainCohere
    from langchain_core.documents import Document
    from langchain_nvidia_ai_endpoints import NVIDIARerank
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaCohere
    from llama_index.postprocessor.jinaai_rerank import JinaRerank as LlamaJina
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference as LlamaTei
    from mixedbread import Mixedbread
    from zeroentropy import ZeroEntropy
else:
    # infinity's client and the newest Cohere SDK go with older and newer libraries than the frameworks.
    from infinity_client import AuthenticatedClient
    from infinity_client import Client as InfinityClient
    from infinity_client.api.default import rerank as infinity_rerank
    from infinity_client.models import RerankInput
    from langchain_community.document_compressors.infinity_rerank import InfinityRerank
    from langchain_core.documents import Document

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


def litellm_by(provider: str, path: str) -> Callable[[str, str, int | None], Pairs]:
    def ask(url: str, token: str, top_n: int | None) -> Pairs:
        answer = litellm.rerank(model=f"{provider}/any", query=QUERY, documents=TEXTS, top_n=top_n or len(TEXTS), api_base=url + path, api_key=token, max_retries=0)
        return [(row["index"], row["relevance_score"]) for row in answer.results]

    return ask


def voyage(url: str, token: str, top_n: int | None) -> Pairs:
    client = voyageai.Client(api_key=token, base_url=f"{url}/v1", max_retries=0)
    answer = client.rerank(QUERY, TEXTS, model="rerank-2", top_k=top_n)
    assert all(row.document == TEXTS[row.index] for row in answer.results), answer
    return [(row.index, row.relevance_score) for row in answer.results]


def zero_entropy(url: str, token: str, top_n: int | None) -> Pairs:
    client = ZeroEntropy(api_key=token, base_url=f"{url}/v1", max_retries=0)
    answer = client.models.rerank(model="zerank-1", query=QUERY, documents=TEXTS, top_n=top_n)
    return [(row.index, row.relevance_score) for row in answer.results]


def mixedbread(url: str, token: str, top_n: int | None) -> Pairs:
    client = Mixedbread(api_key=token, base_url=url, max_retries=0)
    answer = client.rerank(query=QUERY, input=TEXTS, model="any", return_input=True, **({} if top_n is None else {"top_k": top_n}))
    assert all(row.input == TEXTS[row.index] for row in answer.data), answer
    return [(row.index, row.score) for row in answer.data]


def infinity(url: str, token: str, top_n: int | None) -> Pairs:
    client = AuthenticatedClient(base_url=url, token=token, raise_on_unexpected_status=True)
    body = RerankInput(query=QUERY, documents=TEXTS, model="any", return_documents=True, **({} if top_n is None else {"top_n": top_n}))
    answer = infinity_rerank.sync(client=client, body=body)
    assert answer is not None and all(row.document == TEXTS[row.index] for row in answer.results), answer
    return [(row.index, row.relevance_score) for row in answer.results]


def langchain_infinity(url: str, token: str, top_n: int | None) -> Pairs:
    # It takes no other kind of client.
    client = InfinityClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, raise_on_unexpected_status=True)
    reranker = InfinityRerank(client=client, model="any", top_n=top_n or len(TEXTS))
    documents = [Document(page_content=text, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    found = reranker.compress_documents(documents, QUERY)
    return [(document.metadata["place"], document.metadata["relevance_score"]) for document in found]


def nvidia(url: str, token: str, top_n: int | None) -> Pairs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reranker = NVIDIARerank(base_url=f"{url}/v1", nvidia_api_key=token, model="any", top_n=top_n or len(TEXTS))
    documents = [Document(text, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    found = reranker.compress_documents(documents, QUERY)
    return [(document.metadata["place"], document.metadata["relevance_score"]) for document in found]


def haystack(url: str, token: str, top_n: int | None) -> Pairs:
    ranker = HaystackCohere(model="any", top_k=top_n or len(TEXTS), api_key=Secret.from_token(token), api_base_url=url)
    documents = [HaystackDocument(content=text, meta={"place": place}) for place, text in enumerate(TEXTS)]
    found = ranker.run(query=QUERY, documents=documents)["documents"]
    return [(document.meta["place"], document.score) for document in found]


COHERE = {"Cohere SDK, ClientV2": cohere_v2, "Cohere SDK, Client": cohere_v1}
FRAMEWORKS = COHERE | {
    "LangChain, CohereRerank": langchain_cohere,
    "LangChain, NVIDIARerank": nvidia,
    "LlamaIndex, CohereRerank": lambda url, token, top_n: llama_index(LlamaCohere(api_key=token, base_url=url, top_n=top_n or 100, max_retries=1)),
    "LlamaIndex, JinaRerank": lambda url, token, top_n: llama_index(LlamaJina(api_key=token, base_url=f"{url}/v1", top_n=top_n or 100)),
    "LlamaIndex, TextEmbeddingInference": lambda url, token, top_n: llama_index(LlamaTei(base_url=url, auth_token=f"Bearer {token}", top_n=top_n or 100)),
    "Haystack, CohereRanker": haystack,
    "LiteLLM, hosted_vllm": litellm_by("hosted_vllm", ""),
    "LiteLLM, infinity": litellm_by("infinity", "/infinity"),
    "LiteLLM, cohere": litellm_by("cohere", "/v2/rerank"),
    "LiteLLM, jina_ai": litellm_by("jina_ai", "/v1/rerank"),
    "Voyage's SDK": voyage,
    "ZeroEntropy's SDK": zero_entropy,
    "Mixedbread's SDK": mixedbread,
}
APART = COHERE | {"infinity_client": infinity, "LangChain, InfinityRerank": langchain_infinity}
CLIENTS = FRAMEWORKS if GROUP == "frameworks" else APART
# Their errors do not hold ours.
OWN_WORDS = {"LlamaIndex, TextEmbeddingInference", "Voyage's SDK"}
# Their scores are logits.
LOGITS = {"LangChain, NVIDIARerank"}


def check(name: str, pairs: Pairs, places: list[int], is_logit: bool) -> None:
    found, scores = [place for place, _ in pairs], [score for _, score in pairs]
    assert found == places, f"{name}: {found}, expected {places}"
    assert is_logit or all(0 <= score <= 1 for score in scores), f"{name}: {scores}"
    assert scores == sorted(scores, reverse=True), f"{name}: {scores}"


def main() -> None:
    ready, absent, strict, token = sys.argv[2:]
    order = [place for place, _ in own(ready, token)]
    assert sorted(order) == list(range(len(TEXTS))) and order != sorted(order), order
    unchanged = list(range(len(TEXTS)))
    for name, ask in CLIENTS.items():
        is_logit = name in LOGITS
        check(f"{name}, all", ask(ready, token, None), order, is_logit)
        check(f"{name}, two", ask(ready, token, 2), order[:2], is_logit)
        check(f"{name}, no worker", ask(absent, token, None), unchanged, is_logit)
        for url, key in [(strict, token), (ready, "another")]:
            try:
                answer = ask(url, key, None)
            except AssertionError:
                assert name in OWN_WORDS, name
            except Exception as problem:  # each client has its own
                told = f"{problem} {getattr(problem, 'body', None)}"
                # LlamaIndex's client of TEI reads an error as if it were scores, and says so in its own words; Voyage's has words of its own.
                assert name in OWN_WORDS or "no ranking" in told or "token" in told, f"{name}: {problem!r}"
            else:
                raise AssertionError(f"{name}: no error, but {answer}")
        print(f"  ok  {name}: {order}, and {unchanged} without a worker; errors arrive")
    models = json.load(urllib.request.urlopen(urllib.request.Request(f"{ready}/v1/models", headers={"Authorization": f"Bearer {token}"}), timeout=60))
    print(f"  ok  /v1/models: {models['data'][0]['id']}")


if __name__ == "__main__":
    main()
