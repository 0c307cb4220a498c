-- Read once, by a PostgreSQL that starts on an empty volume: beside the projects' database, `flywheel`, one a server.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
