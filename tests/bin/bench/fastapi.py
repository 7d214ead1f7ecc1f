"""An item of PostgreSQL as JSON, by FastAPI; DATABASE_URL says where the database is."""

import os
from contextlib import asynccontextmanager
from decimal import Decimal

import asyncpg
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel


class Price(BaseModel):
    count: int
    total: Decimal


class Item(BaseModel):
    id: int
    name: str
    prices: list[Price]


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=2, max_size=2) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/items/{id}")
async def item(id: int, request: Request) -> Item:
    row = await request.app.state.pool.fetchrow("select id, name, price from item where id = $1", id)
    if row is None:
        raise HTTPException(status_code=404)
    prices = [Price(count=count, total=count * row["price"]) for count in range(1, 11)]
    return Item(id=row["id"], name=row["name"], prices=prices)
