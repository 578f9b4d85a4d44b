"""A retrieval service as it is usually written, for benchmarks/serving.py to compare with.

ENCODER=DIR PASSAGES=FILE uvicorn --app-dir benchmarks plain_service:app
"""

import os

import faiss
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(os.environ["ENCODER"], device="cpu")
passages = pd.read_parquet(os.environ["PASSAGES"])[["passage_id", "doc_id", "section", "start", "end", "text"]].to_dict("records")
vectors = model.encode([passage["text"] for passage in passages], normalize_embeddings=True)
index = faiss.IndexFlatIP(vectors.shape[1])
index.add(vectors)
app = FastAPI()


class Question(BaseModel):
    query: str
    k: int = 5


@app.post("/search")
def search(question: Question):
    vector = model.encode([question.query], normalize_embeddings=True)
    scores, rows = index.search(vector, question.k)
    return {"results": [passages[row] | {"score": float(score)} for row, score in zip(rows[0], scores[0], strict=True)]}
