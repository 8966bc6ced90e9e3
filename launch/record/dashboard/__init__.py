"""A run's metrics in Ray, Prometheus and Grafana.

    tracker.ray -> ray.util.metrics -> Ray's metrics agent -> Prometheus -> Grafana

`names` says what a metric is called on the way, `tracker` hands the values to Ray, `panels` lists
what the Grafana dashboard shows, and `files` makes `grafana.json` and `prometheus.yml` from it.
`python -m launch.dashboard out=DIR` writes them.

Ray tells Prometheus where to look only if it runs its dashboard: `resources.dashboard=true`, or a
cluster of `ray start --head`.
"""
