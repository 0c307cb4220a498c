"""Scores a parquet of texts with a registered model on a local Spark of two workers, as its user would.

Run as `python -m tests.promotion.on_spark TRACKING_URI MODEL_URI TEXTS ANSWERS`.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Write the answers as one parquet file."""
    import mlflow
    from pyspark.sql import SparkSession

    tracking_uri, model_uri, texts, answers = sys.argv[1:]
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else whatever python3 the workers' PATH has
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    score = mlflow.pyfunc.spark_udf(spark, model_uri, env_manager="local")
    rows = spark.read.parquet(texts).repartition(2)
    rows.select("id", score("text").alias("answer")).select("id", "answer.*").toPandas().to_parquet(answers)
    spark.stop()


if __name__ == "__main__":
    main()
